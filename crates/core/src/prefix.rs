//! Prefix affinity: block hashes over a prompt, and who probably holds which blocks.

mod hasher;
mod holders;
mod index;

pub use hasher::{PrefixBlock, PrefixHasher, PrefixLayout, PrefixSeed, hash_name, mix};
pub use holders::Alive;
pub use index::{IndexSize, PrefixIndex};
