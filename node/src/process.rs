//! What the process itself takes: read from `/proc`.

use std::fs;

/// Descriptors this process may have open.
pub(crate) fn files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()).and_then(|soft| soft.parse().ok());
    soft.unwrap_or(1024)
}

/// Resident memory, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    status("VmRSS:").map_or(0, |kib| kib * 1024)
}

/// Threads.
pub(crate) fn threads() -> u64 {
    status("Threads:").unwrap_or(0)
}

/// Open descriptors.
pub(crate) fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

fn status(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// This machine's name.
#[must_use]
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "broky".to_owned(),
        name => name.to_owned(),
    }
}
