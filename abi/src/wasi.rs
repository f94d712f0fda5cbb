//! The numbers and memory layouts of WASI preview 1: what a program and its host exchange. Nothing here acts.
//!
//! Specification: `typenames.witx` of WASI snapshot preview 1. All values are little-endian; a layout is written as the offsets of
//! its fields, because a program's memory has no alignment that a host could rely on.

use core::ops::{BitAnd, BitOr, Not};

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident: $raw:ty { $($flag:ident = $bit:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name($raw);

        impl $name {
            $(pub const $flag: $name = $name(1 << $bit);)*
            pub const NONE: $name = $name(0);
            pub const ALL: $name = $name(0 $(| 1 << $bit)*);

            /// Nothing, if a bit is set that means nothing.
            pub const fn from_raw(raw: $raw) -> Option<$name> {
                if raw & !Self::ALL.0 == 0 { Some($name(raw)) } else { None }
            }

            pub const fn raw(self) -> $raw {
                self.0
            }

            /// Has it every flag of `other`?
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }

            /// Has it any flag of `other`?
            pub const fn intersects(self, other: $name) -> bool {
                self.0 & other.0 != 0
            }

            pub const fn union(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        impl BitOr for $name {
            type Output = $name;

            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        impl BitAnd for $name {
            type Output = $name;

            fn bitand(self, other: $name) -> $name {
                $name(self.0 & other.0)
            }
        }

        impl Not for $name {
            type Output = $name;

            fn not(self) -> $name {
                $name(!self.0 & Self::ALL.0)
            }
        }
    };
}

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident: $raw:ty { $($(#[$item:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$item])* $variant = $number,)*
        }

        impl $name {
            pub const fn from_raw(raw: $raw) -> Option<$name> {
                match raw {
                    $($number => Some($name::$variant),)*
                    _ => None,
                }
            }

            pub const fn raw(self) -> $raw {
                self as $raw
            }
        }
    };
}

flags! {
    /// What may be done with a descriptor.
    Rights: u64 {
        FD_DATASYNC = 0,
        FD_READ = 1,
        FD_SEEK = 2,
        FD_FDSTAT_SET_FLAGS = 3,
        FD_SYNC = 4,
        FD_TELL = 5,
        FD_WRITE = 6,
        FD_ADVISE = 7,
        FD_ALLOCATE = 8,
        PATH_CREATE_DIRECTORY = 9,
        PATH_CREATE_FILE = 10,
        PATH_LINK_SOURCE = 11,
        PATH_LINK_TARGET = 12,
        PATH_OPEN = 13,
        FD_READDIR = 14,
        PATH_READLINK = 15,
        PATH_RENAME_SOURCE = 16,
        PATH_RENAME_TARGET = 17,
        PATH_FILESTAT_GET = 18,
        PATH_FILESTAT_SET_SIZE = 19,
        PATH_FILESTAT_SET_TIMES = 20,
        FD_FILESTAT_GET = 21,
        FD_FILESTAT_SET_SIZE = 22,
        FD_FILESTAT_SET_TIMES = 23,
        PATH_SYMLINK = 24,
        PATH_REMOVE_DIRECTORY = 25,
        PATH_UNLINK_FILE = 26,
        POLL_FD_READWRITE = 27,
        SOCK_SHUTDOWN = 28,
        SOCK_ACCEPT = 29,
    }
}

flags! {
    /// How a descriptor reads and writes.
    Fdflags: u16 {
        APPEND = 0,
        DSYNC = 1,
        NONBLOCK = 2,
        RSYNC = 3,
        SYNC = 4,
    }
}

flags! {
    /// How `path_open` opens.
    Oflags: u16 {
        CREAT = 0,
        DIRECTORY = 1,
        EXCL = 2,
        TRUNC = 3,
    }
}

flags! {
    /// How a path is resolved.
    Lookupflags: u32 {
        SYMLINK_FOLLOW = 0,
    }
}

flags! {
    /// Which times `filestat_set_times` sets.
    Fstflags: u16 {
        ATIM = 0,
        ATIM_NOW = 1,
        MTIM = 2,
        MTIM_NOW = 3,
    }
}

flags! {
    /// How a clock subscription's timeout is meant.
    Subclockflags: u16 {
        ABSTIME = 0,
    }
}

flags! {
    /// What else is known of a descriptor that became ready.
    Eventrwflags: u16 {
        HANGUP = 0,
    }
}

flags! {
    /// Which channels of a socket are shut down.
    Sdflags: u8 {
        RD = 0,
        WR = 1,
    }
}

flags! {
    /// How `sock_recv` receives.
    Riflags: u16 {
        PEEK = 0,
        WAITALL = 1,
    }
}

numbers! {
    /// What kind of thing a file or descriptor is.
    Filetype: u8 {
        Unknown = 0,
        BlockDevice = 1,
        CharacterDevice = 2,
        Directory = 3,
        RegularFile = 4,
        SocketDgram = 5,
        SocketStream = 6,
        SymbolicLink = 7,
    }
}

numbers! {
    Clockid: u32 {
        /// Nanoseconds since 1970-01-01T00:00:00Z.
        Realtime = 0,
        /// Never goes back, not even when a process is continued on another machine.
        Monotonic = 1,
        ProcessCputime = 2,
        ThreadCputime = 3,
    }
}

numbers! {
    Whence: u8 {
        Set = 0,
        Cur = 1,
        End = 2,
    }
}

numbers! {
    /// What a program expects to do with a part of a file.
    Advice: u8 {
        Normal = 0,
        Sequential = 1,
        Random = 2,
        WillNeed = 3,
        DontNeed = 4,
        NoReuse = 5,
    }
}

numbers! {
    Eventtype: u8 {
        Clock = 0,
        FdRead = 1,
        FdWrite = 2,
    }
}

numbers! {
    Preopentype: u8 {
        Dir = 0,
    }
}

numbers! {
    /// What `proc_raise` sends.
    Signal: u8 {
        None = 0,
        Hup = 1,
        Int = 2,
        Quit = 3,
        Ill = 4,
        Trap = 5,
        Abrt = 6,
        Bus = 7,
        Fpe = 8,
        Kill = 9,
        Usr1 = 10,
        Segv = 11,
        Usr2 = 12,
        Pipe = 13,
        Alrm = 14,
        Term = 15,
        Chld = 16,
        Cont = 17,
        Stop = 18,
        Tstp = 19,
        Ttin = 20,
        Ttou = 21,
        Urg = 22,
        Xcpu = 23,
        Xfsz = 24,
        Vtalrm = 25,
        Prof = 26,
        Winch = 27,
        Poll = 28,
        Pwr = 29,
        Sys = 30,
    }
}

/// `iovec` and `ciovec`: a buffer's address and length.
pub mod iovec {
    pub const SIZE: u32 = 8;
    pub const BUF: u32 = 0;
    pub const BUF_LEN: u32 = 4;
}

/// `dirent`: followed by the name's bytes.
pub mod dirent {
    pub const SIZE: usize = 24;
    pub const NEXT: usize = 0;
    pub const INO: usize = 8;
    pub const NAMLEN: usize = 16;
    pub const TYPE: usize = 20;
}

pub mod fdstat {
    pub const SIZE: usize = 24;
    pub const FILETYPE: usize = 0;
    pub const FLAGS: usize = 2;
    pub const RIGHTS_BASE: usize = 8;
    pub const RIGHTS_INHERITING: usize = 16;
}

pub mod filestat {
    pub const SIZE: usize = 64;
    pub const DEV: usize = 0;
    pub const INO: usize = 8;
    pub const FILETYPE: usize = 16;
    pub const NLINK: usize = 24;
    pub const FILE_SIZE: usize = 32;
    pub const ATIM: usize = 40;
    pub const MTIM: usize = 48;
    pub const CTIM: usize = 56;
}

pub mod prestat {
    pub const SIZE: usize = 8;
    pub const TAG: usize = 0;
    pub const NAME_LEN: usize = 4;
}

pub mod subscription {
    pub const SIZE: u32 = 48;
    pub const USERDATA: usize = 0;
    pub const TAG: usize = 8;
    pub const FD: usize = 16;
    pub const CLOCK_ID: usize = 16;
    pub const CLOCK_TIMEOUT: usize = 24;
    pub const CLOCK_PRECISION: usize = 32;
    pub const CLOCK_FLAGS: usize = 40;
}

pub mod event {
    pub const SIZE: u32 = 32;
    pub const USERDATA: usize = 0;
    pub const ERROR: usize = 8;
    pub const TYPE: usize = 10;
    pub const NBYTES: usize = 16;
    pub const FLAGS: usize = 24;
}

/// The first cookie of a directory.
pub const DIRCOOKIE_START: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_know_their_bits() {
        assert_eq!(Rights::SOCK_ACCEPT.raw(), 1 << 29);
        assert_eq!(Rights::ALL.raw(), (1 << 30) - 1);
        assert_eq!(Rights::from_raw(1 << 30), None);
        assert_eq!(Fdflags::from_raw(0b11111), Some(Fdflags::ALL));
        assert_eq!(Fdflags::from_raw(0b100000), None);
        assert!((Oflags::CREAT | Oflags::EXCL).contains(Oflags::EXCL));
        assert!(!Oflags::CREAT.intersects(!Oflags::CREAT));
    }

    #[test]
    fn numbers_reject_what_means_nothing() {
        assert_eq!(Filetype::from_raw(7), Some(Filetype::SymbolicLink));
        assert_eq!(Filetype::from_raw(8), None);
        assert_eq!(Clockid::from_raw(4), None);
        assert_eq!(Whence::from_raw(2), Some(Whence::End));
        assert_eq!(Signal::from_raw(31), None);
        assert_eq!(Signal::Term.raw(), 15);
    }
}
