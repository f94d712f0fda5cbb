//! Bugs that are planted on purpose, to see that tests find them. Knows no bug: each crate lists its own.
//!
//! The one idea: a checker that was never seen to fail proves nothing. Code that could have a bug asks `planted(Bug::Name)`; in a build
//! of its crate without the feature `planted` the answer is a constant no, and nothing of it is left.
#![no_std]

/// Makes the module's `Bug` with all bugs in `Bug::ALL`, `planted(bug)` for the code that could have one, and with the crate's feature
/// `planted` also `plant(Some(bug))`, which plants one, or none, in all of this operating-system process.
#[macro_export]
macro_rules! bugs {
    ($($(#[$text:meta])* $name:ident,)*) => {
        /// One mistake that somebody could have made.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[$text])* $name,)*
        }

        impl Bug {
            pub const ALL: [Bug; [$(Bug::$name),*].len()] = [$(Bug::$name),*];
        }

        /// The number of the bug that is planted, from 1; zero is none.
        #[cfg(feature = "planted")]
        static CHOSEN: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);

        /// Plants one bug, or none, in all of this operating-system process.
        #[cfg(feature = "planted")]
        pub fn plant(bug: Option<Bug>) {
            CHOSEN.store(bug.map_or(0, |bug| bug as u8 + 1), core::sync::atomic::Ordering::Relaxed);
        }

        #[cfg(feature = "planted")]
        pub(crate) fn planted(bug: Bug) -> bool {
            CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == bug as u8 + 1
        }

        #[cfg(not(feature = "planted"))]
        pub(crate) const fn planted(_: Bug) -> bool {
            false
        }
    };
}
