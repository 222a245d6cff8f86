//! A number's grammar, byte by byte.

/// How much of a number was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// Nothing yet.
    Start,
    /// The minus sign.
    Minus,
    /// An integer part that is 0, after which no digit may come.
    Zero,
    /// An integer part that does not begin with 0.
    Integer,
    /// The decimal point.
    Point,
    /// Digits after the point.
    Fraction,
    /// The `e` or `E`.
    Exponent,
    /// The exponent's sign.
    ExponentSign,
    /// The exponent's digits.
    ExponentDigits,
}

impl Number {
    /// The state after `byte`; none when the number does not go on with it.
    #[inline]
    pub(super) fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b'-') => Self::Minus,
            (Self::Start | Self::Minus, b'0') => Self::Zero,
            (Self::Start | Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => Self::ExponentDigits,
            _ => return None,
        })
    }

    /// Whether a number may end here, before `next`.
    pub(super) fn may_end(self, next: Option<u8>) -> bool {
        match self {
            Self::Zero => !next.is_some_and(|byte| byte.is_ascii_digit()),
            Self::Integer | Self::Fraction | Self::ExponentDigits => true,
            _ => false,
        }
    }
}
