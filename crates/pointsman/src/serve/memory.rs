//! How much memory this process may use, and what its budgets make of it.

use std::fs;

/// What is assumed where neither cgroup nor kernel tells.
const UNKNOWN: u64 = 1 << 30;
/// The most that the prefix indexes of all pools take by default, however large the limit.
const PREFIX_INDEX_MAX: u64 = 96 << 20;

/// The memory that this process may use: the cgroup's limit, or all that there is.
pub(crate) fn limit() -> u64 {
    let cgroup = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
        .min();
    cgroup.unwrap_or(u64::MAX).min(fs::read_to_string("/proc/meminfo").ok().and_then(total).unwrap_or(UNKNOWN))
}

fn total(meminfo: String) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// A share of the limit, in bytes.
pub(crate) fn share(limit: u64, percent: u8) -> usize {
    usize::try_from(limit / 100 * u64::from(percent)).unwrap_or(usize::MAX)
}

/// What one of `pools` prefix indexes may cost, when all together may take `percent` of the limit.
pub(crate) fn prefix_index_of_one(limit: u64, percent: u8, pools: usize) -> usize {
    let all = share(limit, percent).min(usize::try_from(PREFIX_INDEX_MAX).unwrap_or(usize::MAX));
    all / pools.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_total_is_read() {
        assert_eq!(total("MemTotal:       16 kB\nMemFree: 3 kB\n".into()), Some(16_384));
        assert!(limit() > 0);
    }

    #[test]
    fn the_prefix_budget_is_shared_and_capped() {
        assert_eq!(prefix_index_of_one(100 << 20, 30, 3), 10 << 20);
        assert_eq!(prefix_index_of_one(1 << 40, 30, 1), 96 << 20);
    }
}
