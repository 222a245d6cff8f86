//! Quantiles of a few times.

use std::time::Duration;

/// The time that a share of all does not exceed; zero of none.
pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let place = (share * times.len() as f64).ceil() as usize;
    times.get(place.max(1) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=20).rev().map(Duration::from_millis).collect();
        let of = |share| quantile(&times, share).as_millis();
        assert_eq!([of(0.0), of(0.5), of(0.95), of(1.0)], [1, 10, 19, 20]);
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
