//! Which requests are copied.

/// Whether a request is one of the `numerator` of `denominator` (at least 1) that are copied, given a random number that
/// is even over all of `u64`.
pub fn sampled(numerator: u32, denominator: u32, random: u64) -> bool {
    // The upper half of the product is `random` scaled to 0..denominator, without the bias of a remainder.
    let scaled = (u128::from(random) * u128::from(denominator.max(1))) >> 64;
    scaled < u128::from(numerator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_none_and_a_share() {
        let mut rng = fastrand::Rng::with_seed(5);
        for (numerator, denominator, low, high) in [
            (1, 1, 10_000, 10_000),
            (0, 100, 0, 0),
            (100, 100, 10_000, 10_000),
            (42, 100, 4_000, 4_400),
            (7, 3, 10_000, 10_000),
        ] {
            let count = (0..10_000).filter(|_| sampled(numerator, denominator, rng.u64(..))).count();
            assert!((low..=high).contains(&count), "{numerator} of {denominator}: {count}");
        }
    }

    #[test]
    fn edges_of_the_random_number_are_on_the_right_side() {
        assert!(sampled(1, 100, 0));
        assert!(!sampled(99, 100, u64::MAX));
        assert!(sampled(1, 1, u64::MAX));
        assert!(sampled(u32::MAX, u32::MAX, u64::MAX));
    }
}
