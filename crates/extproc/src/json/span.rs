//! Where the plain part of a string ends, many bytes at a time.

/// Bytes looked at together: the compiler turns the loop over one such block into vector instructions.
const BLOCK: usize = 32;

/// One in every byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The highest bit of every byte of a word.
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The place, at or after `from`, of the first byte that is a quote, a backslash, a control character or not ASCII;
/// the length of `bytes` when there is none.
#[inline]
pub(super) fn plain_end(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let (blocks, _) = rest.as_chunks::<BLOCK>();
    let plain = blocks.iter().take_while(|block| is_plain(block)).count() * BLOCK;
    let (words, tail) = rest.get(plain..).unwrap_or_default().as_chunks::<8>();
    let mut at = from + plain;
    for word in words {
        let marks = marks(u64::from_le_bytes(*word));
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + tail.iter().take_while(|&&byte| !is_special(byte)).count()
}

/// Whether a byte needs a closer look. As a signed number, what is not ASCII lies below the control characters' end.
#[inline]
fn is_special(byte: u8) -> bool {
    byte.cast_signed() < 0x20 || byte == b'"' || byte == b'\\'
}

/// Whether no byte of a block needs a closer look. Without a branch, so that it is vectorised.
#[inline]
fn is_plain(block: &[u8; BLOCK]) -> bool {
    let mut special = false;
    for &byte in block {
        special |= (byte.cast_signed() < 0x20) | (byte == b'"') | (byte == b'\\');
    }
    !special
}

/// A word whose lowest set bit lies in the first byte, lowest first, that needs a closer look; 0 when none does.
/// Subtraction borrows only from a byte that is itself marked, so no mark below the first right one is wrong.
#[inline]
fn marks(word: u64) -> u64 {
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let quote = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    (word | below(word, 0x20) | quote | backslash) & HIGHS
}

#[cfg(test)]
mod tests {
    use super::{is_special, plain_end};

    #[test]
    fn every_special_byte_is_found_wherever_it_stands() {
        for length in [1, 7, 8, 31, 32, 33, 64, 75] {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'!'; length];
                    bytes[at] = byte;
                    let expected = if is_special(byte) { at } else { length };
                    assert_eq!(plain_end(&bytes, 0), expected, "byte {byte:#x} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn the_first_of_two_special_bytes_is_found() {
        let special: Vec<u8> = (0..=u8::MAX).filter(|&byte| is_special(byte)).collect();
        for (&first, &second) in special.iter().flat_map(|first| special.iter().map(move |second| (first, second))) {
            assert_eq!(plain_end(&[b' ', first, b' ', second, b' ', b' ', b' ', b' '], 0), 1);
            assert_eq!(plain_end(&[b' ', first, second, b' ', b' ', b' ', b' ', b' '], 2), 2);
        }
    }

    #[test]
    fn a_start_beyond_the_end_is_the_end() {
        assert_eq!(plain_end(b"abc", 3), 3);
    }
}
