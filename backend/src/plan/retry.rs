//! How long to wait before another attempt: exponential, bounded, spread.

use super::Bounds;

/// The delay before the second attempt where nothing else is said.
const FIRST_MS: u64 = 1_000;
/// The longest delay where nothing else is said.
const MOST_MS: u64 = 300_000;

/// How long to wait after the attempt number `spent` of `run` before the next, in milliseconds.
///
/// It doubles from one attempt to the next up to its bound; half of it is fixed, the other half is
/// spread, so that what failed together does not come back together. The spread is drawn from a
/// generator seeded with the run and the attempt: the same history gives the same delays.
pub fn delay_ms(run: &str, spent: i64, bounds: &Bounds) -> u64 {
    let most = bounds.retry_delay_most_ms.unwrap_or(MOST_MS);
    let first = bounds.retry_delay_ms.unwrap_or(FIRST_MS).min(most);
    let doublings = u32::try_from(spent.max(1) - 1).unwrap_or(u32::MAX);
    let whole = first
        .saturating_mul(1_u64.checked_shl(doublings).unwrap_or(u64::MAX))
        .min(most);
    let half = whole / 2;
    let spread = whole - half;
    match spread.checked_add(1) {
        Some(values) => half + draw(run, spent) % values,
        None => whole,
    }
}

/// A number drawn for this attempt: FNV-1a over the run's id, then the output step of `SplitMix64`
/// (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn draw(run: &str, spent: i64) -> u64 {
    let mut seed = 0xcbf2_9ce4_8422_2325_u64;
    for byte in run.bytes().chain(spent.to_le_bytes()) {
        seed = (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn delays_double_up_to_their_bound_and_are_spread_over_half() {
        let bounds = Bounds {
            retry_delay_ms: Some(1_000),
            retry_delay_most_ms: Some(60_000),
            ..Bounds::default()
        };
        for (spent, whole) in [
            (1, 1_000),
            (2, 2_000),
            (6, 32_000),
            (7, 60_000),
            (i64::MAX, 60_000),
        ] {
            let delays: BTreeSet<u64> = (0..500)
                .map(|run| delay_ms(&run.to_string(), spent, &bounds))
                .collect();
            assert!(
                delays.iter().all(|ms| (whole / 2..=whole).contains(ms)),
                "{delays:?}"
            );
            assert!(delays.len() > 200, "{} delays only", delays.len());
        }
    }

    #[test]
    fn the_same_history_gives_the_same_delay_and_another_attempt_another() {
        let bounds = Bounds::default();
        assert_eq!(delay_ms("r", 9, &bounds), delay_ms("r", 9, &bounds));
        assert_ne!(delay_ms("r", 9, &bounds), delay_ms("s", 9, &bounds));
    }

    #[test]
    fn nothing_overflows_and_no_delay_is_fine() {
        let endless = Bounds {
            retry_delay_ms: Some(u64::MAX),
            retry_delay_most_ms: Some(u64::MAX),
            ..Bounds::default()
        };
        assert!(delay_ms("r", 3, &endless) >= u64::MAX / 2);
        let none = Bounds {
            retry_delay_ms: Some(0),
            ..Bounds::default()
        };
        assert_eq!(delay_ms("r", 70, &none), 0);
    }
}
