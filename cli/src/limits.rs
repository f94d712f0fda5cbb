//! What a program may use, as the command line says it. Knows units.

use clap::Args;
use daemon::node::{HANDLES_MAX, MAILBOX_BYTES_MAX, ProcessLimits};
use std::time::Duration;

/// What the daemon holds a process to. Its name is that of the group of these options.
#[derive(Args)]
pub struct LimitArguments {
    /// How much memory it may use, for example 512M or 2G
    #[arg(long = "mem", value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,

    /// How many seconds of processor time it may use; then it ends
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    cpu: Option<Duration>,

    /// Its share of the processor, where others have 100
    #[arg(long, value_name = "SHARE", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    share: Option<u32>,

    /// How much it may print, for example 10M; then writing fails
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    output: Option<u64>,

    /// How many files it may have open, with the streams and directories that it is given; and how many ports, pipes and processes it
    /// may have in its hands, with one that it is given, to the names. Then opening and making more fails
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(HANDLES_MAX)))]
    handles: Option<u32>,

    /// How much the buffers of its ports and pipes may hold together, for example 1M; then making more of them fails
    #[arg(long, value_name = "BYTES", value_parser = mailbox)]
    mailbox: Option<u64>,
}

/// The options of [`LimitArguments`], for messages.
pub const OPTIONS: &str = "--mem, --cpu, --share, --output, --handles, --mailbox";

impl LimitArguments {
    pub fn limits(&self) -> ProcessLimits {
        ProcessLimits {
            memory_bytes: self.memory,
            cpu_weight: self.share,
            cpu_total: self.cpu,
            output_bytes: self.output,
            handles: self.handles,
            mailbox_bytes: self.mailbox,
        }
    }

    pub fn are_any(&self) -> bool {
        self.limits() != ProcessLimits::default()
    }
}

fn mailbox(text: &str) -> Result<u64, String> {
    let within = |number: &u64| *number <= MAILBOX_BYTES_MAX;
    bytes(text).and_then(|number| {
        Some(number).filter(within).ok_or_else(|| format!("expected at most {}G", MAILBOX_BYTES_MAX >> 30))
    })
}

/// `512M`, `2G`, `65536`: powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    const FORM: &str = "expected a number of bytes, for example 65536, 512M or 2G";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(FORM.into()),
    };
    let number: u64 = digits.parse().map_err(|_| FORM.to_string())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(|| FORM.into())
}

/// `30`, `0.5`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number of seconds, for example 30 or 0.5".to_string())?;
    let duration = Duration::try_from_secs_f64(number).ok().filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "expected more than 0 seconds".into())
}

/// `90`, `90s`, `10m`, `24h`, `7d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "expected a time, for example 90s, 10m, 24h or 7d";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(FORM.into()),
    };
    let number: u64 = digits.parse().map_err(|_| FORM.to_string())?;
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(|| FORM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read() {
        assert_eq!(["1", "2k", "3MiB", "4G"].map(bytes), [Ok(1), Ok(2 << 10), Ok(3 << 20), Ok(4 << 30)]);
        for wrong in ["", "0", "x", "1T", "-1", "99999999999999999999", "18446744073709551615k"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(["90", "10m", "2h"].map(duration), [90, 600, 7200].map(|seconds| Ok(Duration::from_secs(seconds))));
        for wrong in ["", "0", "h", "1w", "-1s", "99999999999999999999", "18446744073709551615d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "NaN", "1e400"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
