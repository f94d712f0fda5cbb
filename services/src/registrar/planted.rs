//! Bugs that are planted on purpose in names of ports on many nodes, to see that their checker finds them. A build without the feature
//! `planted` contains none of them.

planted::bugs! {
    /// What was found is given out although it is known that it has changed.
    ChangesNotHeeded,
    /// A claim that was refused counts.
    RefusedClaimCounts,
    /// A name that was lost to another node goes on being one of this.
    LossNotHeeded,
}
