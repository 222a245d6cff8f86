//! UTF-8, checked as it arrives, with characters cut by a chunk's end.

/// What is still owed of a character that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Utf8 {
    /// How many more bytes the character needs; 0 between characters.
    left: u8,
    /// The least value that the next byte may have.
    low: u8,
    /// The greatest value that the next byte may have.
    high: u8,
}

impl Utf8 {
    /// Between two characters.
    pub(super) const fn new() -> Self {
        Self { left: 0, low: 0, high: 0 }
    }

    /// Reads from `at` on to the first ASCII byte that follows a whole character, or to the end, and tells its place;
    /// as an error the place of the byte that cannot stand where it does.
    #[inline]
    pub(super) fn advance(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, usize> {
        loop {
            if self.left == 0 {
                at = whole_characters(bytes, at);
            }
            let Some(&byte) = bytes.get(at) else { return Ok(at) };
            if self.left > 0 {
                if !(self.low..=self.high).contains(&byte) {
                    return Err(at);
                }
                *self = Self { left: self.left - 1, low: 0x80, high: 0xBF };
            } else if byte < 0x80 {
                return Ok(at);
            } else {
                *self = Self::begun_by(byte).ok_or(at)?;
            }
            at += 1;
        }
    }

    /// What a character's first byte asks for; none when no character begins with it. The bounds shut out overlong
    /// forms, surrogates and what lies beyond U+10FFFF.
    fn begun_by(byte: u8) -> Option<Self> {
        let (left, low, high) = match byte {
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return None,
        };
        Some(Self { left, low, high })
    }
}

/// Skips the characters, other than ASCII, that lie whole in `bytes`: the common case, several bytes a step. What
/// begins an error or a cut character is left for the slow path, so that both tell the same place.
#[inline]
fn whole_characters(bytes: &[u8], mut at: usize) -> usize {
    loop {
        at += match bytes.get(at..) {
            Some([0xE1..=0xEC | 0xEE | 0xEF, 0x80..=0xBF, 0x80..=0xBF, ..]) => 3,
            Some([0xC2..=0xDF, 0x80..=0xBF, ..]) => 2,
            Some([0xE0, 0xA0..=0xBF, 0x80..=0xBF, ..]) | Some([0xED, 0x80..=0x9F, 0x80..=0xBF, ..]) => 3,
            Some([0xF0, 0x90..=0xBF, 0x80..=0xBF, 0x80..=0xBF, ..]) => 4,
            _ => return at,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::Utf8;

    /// The bytes that begin, continue and break characters, and those beside them.
    const EDGES: [u8; 20] = [
        0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF3,
        0xF4, 0xF5,
    ];

    /// Reads `bytes`, cut at `cut`, as the scanner does: an ASCII byte is stepped over between characters.
    fn is_valid(bytes: &[u8], cut: usize) -> bool {
        let mut state = Utf8::new();
        let mut read = |bytes: &[u8]| {
            let mut at = 0;
            while at < bytes.len() {
                match state.advance(bytes, at) {
                    Ok(stop) => at = stop + 1,
                    Err(_) => return false,
                }
            }
            true
        };
        let (head, tail) = bytes.split_at(cut);
        read(head) && read(tail) && state.left == 0
    }

    #[test]
    fn agrees_with_the_standard_library_on_every_mix_of_four_edge_bytes_and_every_cut() {
        for number in 0..EDGES.len().pow(4) {
            let bytes: Vec<u8> = (0..4).map(|digit| EDGES[number / EDGES.len().pow(digit) % EDGES.len()]).collect();
            let expected = std::str::from_utf8(&bytes).is_ok();
            for cut in 0..=4 {
                assert_eq!(is_valid(&bytes, cut), expected, "{bytes:x?} cut at {cut}");
            }
        }
    }
}
