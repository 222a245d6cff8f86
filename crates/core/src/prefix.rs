//! Prefix affinity: block hashes over a prompt, and who probably holds which blocks.

mod hasher;
mod index;

pub use hasher::{PrefixBlock, PrefixHasher, PrefixLayout, hash_name, mix};
pub use index::{IndexSize, PrefixIndex};
