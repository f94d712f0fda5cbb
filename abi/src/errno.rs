//! The error numbers of WASI preview 1. They are also what every file system, stream and device answers with, so that an
//! error reaches a program unchanged. Nothing here knows where an error comes from.
//!
//! Specification: `errno` in `typenames.witx` of WASI snapshot preview 1.

use core::fmt;

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// Why a call failed.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Errno {
            $(#[doc = $text] $name = $number,)*
        }

        impl Errno {
            pub const ALL: &'static [Errno] = &[$(Errno::$name),*];

            fn text(self) -> &'static str {
                match self {
                    $(Errno::$name => $text,)*
                }
            }
        }
    };
}

errnos! {
    TooBig = 1, "argument list too long";
    Acces = 2, "permission denied";
    AddrInUse = 3, "address in use";
    AddrNotAvail = 4, "address not available";
    AfNoSupport = 5, "address family not supported";
    Again = 6, "resource unavailable, or operation would block";
    Already = 7, "connection already in progress";
    BadF = 8, "bad file descriptor";
    BadMsg = 9, "bad message";
    Busy = 10, "device or resource busy";
    Canceled = 11, "operation canceled";
    Child = 12, "no child processes";
    ConnAborted = 13, "connection aborted";
    ConnRefused = 14, "connection refused";
    ConnReset = 15, "connection reset";
    DeadLk = 16, "resource deadlock would occur";
    DestAddrReq = 17, "destination address required";
    Dom = 18, "mathematics argument out of domain of function";
    DQuot = 19, "disk quota exceeded";
    Exist = 20, "file exists";
    Fault = 21, "bad address";
    FBig = 22, "file too large";
    HostUnreach = 23, "host is unreachable";
    IdRm = 24, "identifier removed";
    IlSeq = 25, "illegal byte sequence";
    InProgress = 26, "operation in progress";
    Intr = 27, "interrupted function";
    Inval = 28, "invalid argument";
    Io = 29, "input/output error";
    IsConn = 30, "socket is connected";
    IsDir = 31, "is a directory";
    Loop = 32, "too many levels of symbolic links";
    MFile = 33, "too many open files";
    MLink = 34, "too many links";
    MsgSize = 35, "message too large";
    MultiHop = 36, "multihop attempted";
    NameTooLong = 37, "file name too long";
    NetDown = 38, "network is down";
    NetReset = 39, "connection aborted by network";
    NetUnreach = 40, "network unreachable";
    NFile = 41, "too many files open in system";
    NoBufs = 42, "no buffer space available";
    NoDev = 43, "no such device";
    NoEnt = 44, "no such file or directory";
    NoExec = 45, "executable file format error";
    NoLck = 46, "no locks available";
    NoLink = 47, "link has been severed";
    NoMem = 48, "not enough space";
    NoMsg = 49, "no message of the desired type";
    NoProtoOpt = 50, "protocol not available";
    NoSpc = 51, "no space left on device";
    NoSys = 52, "function not supported";
    NotConn = 53, "the socket is not connected";
    NotDir = 54, "not a directory";
    NotEmpty = 55, "directory not empty";
    NotRecoverable = 56, "state not recoverable";
    NotSock = 57, "not a socket";
    NotSup = 58, "not supported";
    NoTty = 59, "inappropriate control operation";
    NxIo = 60, "no such device or address";
    Overflow = 61, "value too large to be stored in data type";
    OwnerDead = 62, "previous owner died";
    Perm = 63, "operation not permitted";
    Pipe = 64, "broken pipe";
    Proto = 65, "protocol error";
    ProtoNoSupport = 66, "protocol not supported";
    ProtoType = 67, "protocol wrong type for socket";
    Range = 68, "result too large";
    RoFs = 69, "read-only file system";
    SPipe = 70, "invalid seek";
    Srch = 71, "no such process";
    Stale = 72, "stale file handle";
    TimedOut = 73, "connection timed out";
    TxtBsy = 74, "text file busy";
    XDev = 75, "cross-device link";
    NotCapable = 76, "capabilities insufficient";
}

impl Errno {
    /// The number that a program sees; success is 0 and no `Errno`.
    pub const fn raw(self) -> u16 {
        self as u16
    }

    pub fn from_raw(raw: u16) -> Option<Errno> {
        Errno::ALL.get((raw as usize).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(self.text())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_specification() {
        for (index, errno) in Errno::ALL.iter().enumerate() {
            assert_eq!(errno.raw() as usize, index + 1, "{errno:?}");
            assert_eq!(Errno::from_raw(errno.raw()), Some(*errno));
        }
        assert_eq!(Errno::ALL.len(), 76);
        assert_eq!((Errno::from_raw(0), Errno::from_raw(77)), (None, None));
        let some = [(Errno::Again, 6), (Errno::BadF, 8), (Errno::Fault, 21), (Errno::IlSeq, 25), (Errno::NoEnt, 44)];
        let others = [(Errno::NotDir, 54), (Errno::NotSup, 58), (Errno::SPipe, 70), (Errno::NotCapable, 76)];
        for (errno, number) in some.into_iter().chain(others) {
            assert_eq!(errno.raw(), number, "{errno:?}");
        }
    }
}
