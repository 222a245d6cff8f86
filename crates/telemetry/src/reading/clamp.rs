//! Figures that cannot be true, brought to the nearest that can, and counted by what was wrong with them.

/// Which value of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Requests in the queue.
    Waiting,
    /// Requests in the batch.
    Running,
    /// Share of the KV cache in use.
    KvCacheUsage,
    /// Size of the KV cache, or what it is computed from.
    KvCacheTokens,
    /// LoRA adapters: how many, or their names.
    Adapters,
}

/// What was wrong with a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClampKind {
    /// It was no number, and was left out.
    Nan,
    /// It was infinite: the most, or nothing.
    Infinite,
    /// It was below zero: nothing.
    Negative,
    /// It was beyond belief: the most.
    TooLarge,
}

/// How many figures of one reading were clamped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clamps([[u32; ClampKind::ALL.len()]; Field::ALL.len()]);

impl Field {
    /// All fields.
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Running, Self::KvCacheUsage, Self::KvCacheTokens, Self::Adapters];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::KvCacheUsage => "kv_cache_usage",
            Self::KvCacheTokens => "kv_cache_tokens",
            Self::Adapters => "adapters",
        }
    }
}

impl ClampKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Nan, Self::Infinite, Self::Negative, Self::TooLarge];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Nan => "nan",
            Self::Infinite => "infinite",
            Self::Negative => "negative",
            Self::TooLarge => "too_large",
        }
    }
}

impl Clamps {
    /// How many figures of this field were wrong in this way.
    pub fn count(&self, field: Field, kind: ClampKind) -> u32 {
        self.0[field as usize][kind as usize]
    }

    /// Whether every figure could be true.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn add(&mut self, field: Field, kind: ClampKind) {
        let count = &mut self.0[field as usize][kind as usize];
        *count = count.saturating_add(1);
    }

    /// Brings `value` to 0..`max`; `None` for what is no number.
    pub(crate) fn clamp(&mut self, field: Field, value: f64, max: f64) -> Option<f64> {
        let kind = if value.is_nan() {
            ClampKind::Nan
        } else if value.is_infinite() {
            ClampKind::Infinite
        } else if value < 0.0 {
            ClampKind::Negative
        } else if value > max {
            ClampKind::TooLarge
        } else {
            return Some(value);
        };
        self.add(field, kind);
        (!value.is_nan()).then(|| value.clamp(0.0, max))
    }
}
