//! Chained hashes over the prompt's text, block by block, as it streams by.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of text counted as one token, where no tokenizer is asked.
const BYTES_PER_TOKEN: u64 = 4;
/// Blocks that are one hashing unit long; deeper ones are coarser.
const FINE_UNITS: u64 = 32;

/// How prompts are cut into blocks. Equal in every replica, or their hashes never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLayout {
    /// Tokens of the finest block.
    pub block_tokens: u32,
    /// Text past this many tokens is not hashed.
    pub max_prompt_tokens: u32,
}

impl Default for PrefixLayout {
    fn default() -> Self {
        Self { block_tokens: 64, max_prompt_tokens: 131_072 }
    }
}

impl PrefixLayout {
    fn unit_bytes(&self) -> usize {
        self.block_tokens.max(1) as usize * BYTES_PER_TOKEN as usize
    }

    /// Whether a block ends after `units` hashing units. Blocks grow with depth (1, then 2 from the 64th unit, 4 from
    /// the 128th, ...), so that a border is never further off than a 32nd of the depth, and the longest prompt costs a
    /// few hundred blocks instead of thousands.
    fn ends_block(units: u64) -> bool {
        let stride = match units / FINE_UNITS {
            0 => 1,
            ratio => 1 << ratio.ilog2(),
        };
        units.is_multiple_of(stride)
    }
}

/// One block of a prompt: the hash stands for the block and all that precedes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixBlock {
    /// Chained over the text, then mixed with the roles and with the request's seed.
    pub hash: u64,
    /// Tokens from the prompt's start through this block's end.
    pub tokens: u32,
}

impl PrefixBlock {
    /// The block of the same prompt for another model. The model is taken in last and by exclusive or, so that it can be
    /// exchanged when the text is no longer at hand: which model serves is decided after the prompt was hashed.
    #[must_use]
    pub fn for_other_model(self, from: u64, to: u64) -> Self {
        Self { hash: self.hash ^ from ^ to, ..self }
    }
}

/// What tells the blocks of one text apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixSeed {
    /// What the prompt has beside its text: cache salt, tools.
    pub prompt: u64,
    /// The model's [`hash_name`]; 0 where none is named.
    pub model: u64,
}

/// Hash of a name (a model, an adapter): equal in all replicas and versions.
pub fn hash_name(name: &[u8]) -> u64 {
    xxh3_64(name)
}

/// Mixes two hashes into one; not symmetric.
pub fn mix(first: u64, second: u64) -> u64 {
    xxh3_64_with_seed(&second.to_le_bytes(), first)
}

/// Hashes a prompt's text while it streams by, without keeping it.
///
/// The chain starts unseeded, because clients send the messages before the model: the seed is mixed into each finished
/// hash. A message's role is mixed into the blocks that end inside that message once it is known, so that the order of
/// `role` and `content` in the JSON makes no difference. Text is fed as the model would see it, never JSON syntax.
#[derive(Clone, Debug)]
pub struct PrefixHasher {
    layout: PrefixLayout,
    unit: Vec<u8>,
    units: u64,
    chain: u64,
    roles: u64,
    message_began_at: usize,
    blocks: Vec<PrefixBlock>,
    bytes: u64,
}

impl PrefixHasher {
    /// A hasher that has seen nothing.
    pub fn new(layout: PrefixLayout) -> Self {
        Self {
            layout,
            unit: Vec::new(),
            units: 0,
            chain: 0,
            roles: 0,
            message_began_at: 0,
            blocks: Vec::new(),
            bytes: 0,
        }
    }

    /// The next piece of the prompt's text. Where it is cut makes no difference.
    pub fn text(&mut self, mut piece: &[u8]) {
        self.bytes += piece.len() as u64;
        if self.is_at_cap() {
            return;
        }
        let unit_bytes = self.layout.unit_bytes();
        if !self.unit.is_empty() {
            let missing = unit_bytes - self.unit.len();
            if piece.len() < missing {
                self.unit.extend_from_slice(piece);
                return;
            }
            let (head, rest) = piece.split_at(missing);
            self.unit.extend_from_slice(head);
            let digest = xxh3_64(&self.unit);
            self.unit.clear();
            self.end_unit(digest);
            piece = rest;
        }
        let mut units = piece.chunks_exact(unit_bytes);
        for unit in &mut units {
            if self.is_at_cap() {
                return;
            }
            self.end_unit(xxh3_64(unit));
        }
        if !self.is_at_cap() {
            self.unit.extend_from_slice(units.remainder());
        }
    }

    /// Ends a message: `role` is mixed into the blocks that ended inside it and into all that follow, and one token
    /// stands for what the chat template puts between messages.
    pub fn end_message(&mut self, role: u64) {
        self.text(&[0; BYTES_PER_TOKEN as usize]);
        self.close_message(role);
    }

    fn close_message(&mut self, role: u64) {
        self.roles = mix(self.roles, role);
        for block in &mut self.blocks[self.message_began_at..] {
            block.hash = mix(block.hash, self.roles);
        }
        self.message_began_at = self.blocks.len();
    }

    /// Whether the text reached the layout's cap: more text changes no hash.
    pub fn is_at_cap(&self) -> bool {
        self.units * u64::from(self.layout.block_tokens) >= u64::from(self.layout.max_prompt_tokens)
    }

    /// Tokens of all text so far, past the cap too, rounded up.
    pub fn tokens(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN)
    }

    /// A hash over everything hashed so far, roles and the unfinished unit included.
    pub fn digest(&self) -> u64 {
        mix(mix(self.chain, self.roles), xxh3_64(&self.unit))
    }

    /// The finished blocks, after those of `preamble` (text that the model sees first but that may arrive later, such
    /// as Anthropic's `system`), each mixed with `seed`. An unfinished block is left out.
    pub fn finish(mut self, preamble: Option<Self>, seed: PrefixSeed) -> Vec<PrefixBlock> {
        if self.message_began_at < self.blocks.len() {
            self.close_message(0);
        }
        let Some(preamble) = preamble.filter(|preamble| preamble.bytes > 0) else {
            return seeded(self.blocks, seed);
        };
        let ahead = u32::try_from(preamble.tokens()).unwrap_or(u32::MAX);
        let digest = preamble.digest();
        let mut blocks = preamble.finish(None, seed);
        for block in seeded(self.blocks, PrefixSeed { prompt: mix(seed.prompt, digest), ..seed }) {
            blocks.push(PrefixBlock { tokens: block.tokens.saturating_add(ahead), ..block });
        }
        blocks
    }

    fn end_unit(&mut self, digest: u64) {
        self.chain = mix(self.chain, digest);
        self.units += 1;
        if PrefixLayout::ends_block(self.units) {
            let tokens = self.units * u64::from(self.layout.block_tokens);
            self.blocks.push(PrefixBlock { hash: self.chain, tokens: u32::try_from(tokens).unwrap_or(u32::MAX) });
        }
    }
}

fn seeded(mut blocks: Vec<PrefixBlock>, seed: PrefixSeed) -> Vec<PrefixBlock> {
    for block in &mut blocks {
        block.hash = mix(block.hash, seed.prompt) ^ seed.model;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seed(prompt: u64) -> PrefixSeed {
        PrefixSeed { prompt, model: 0 }
    }

    fn blocks_of(text: &[u8], prompt: u64) -> Vec<PrefixBlock> {
        let mut hasher = PrefixHasher::new(PrefixLayout::default());
        hasher.text(text);
        hasher.finish(None, seed(prompt))
    }

    #[test]
    fn another_model_shares_nothing_and_blocks_can_be_made_those_of_another() {
        let blocks = |model: &[u8]| {
            let mut hasher = PrefixHasher::new(PrefixLayout::default());
            hasher.text(&[b'm'; 4096]);
            let mut preamble = PrefixHasher::new(PrefixLayout::default());
            preamble.text(&[b'p'; 600]);
            hasher.finish(Some(preamble), PrefixSeed { prompt: 7, model: hash_name(model) })
        };
        let (chat, other) = (blocks(b"chat"), blocks(b"chat-v2"));
        assert!(chat.iter().zip(&other).all(|(l, r)| l.hash != r.hash));
        let (from, to) = (hash_name(b"chat"), hash_name(b"chat-v2"));
        let made: Vec<_> = chat.iter().map(|block| block.for_other_model(from, to)).collect();
        assert_eq!(made, other);
    }

    #[test]
    fn prompts_share_blocks_exactly_as_far_as_their_text_is_the_same() {
        let base = vec![b'a'; 64 * 4 * 20];
        let mut other = base.clone();
        other[64 * 4 * 7 + 3] = b'b';
        let (left, right) = (blocks_of(&base, 1), blocks_of(&other, 1));
        let shared = left.iter().zip(&right).take_while(|(l, r)| l == r).count();
        assert_eq!(shared, 7);
        assert!(left[7..].iter().zip(&right[7..]).all(|(l, r)| l.hash != r.hash));
    }

    #[test]
    fn another_seed_shares_nothing() {
        let text = vec![b'a'; 4096];
        assert!(blocks_of(&text, 1).iter().zip(blocks_of(&text, 2)).all(|(l, r)| l.hash != r.hash));
    }

    #[test]
    fn a_role_counts_for_the_blocks_of_its_message_and_after() {
        let blocks = |role| {
            let mut hasher = PrefixHasher::new(PrefixLayout::default());
            hasher.text(&[b's'; 1024]);
            hasher.end_message(7);
            hasher.text(&[b'u'; 1024]);
            hasher.end_message(role);
            hasher.text(&[b'v'; 1024]);
            hasher.end_message(7);
            hasher.finish(None, seed(0))
        };
        let (left, right) = (blocks(1), blocks(2));
        assert_eq!(left[..4], right[..4]);
        assert!(left[4..].iter().zip(&right[4..]).all(|(l, r)| l.hash != r.hash));
    }

    #[test]
    fn the_longest_prompt_costs_a_few_hundred_blocks_and_ends_at_the_cap() {
        let blocks = blocks_of(&vec![b'x'; 1_000_000], 0);
        assert!(blocks.len() < 300, "{}", blocks.len());
        assert_eq!(blocks.last().unwrap().tokens, 131_072);
        for pair in blocks.windows(2) {
            let step = pair[1].tokens - pair[0].tokens;
            assert!(step <= 64 || u64::from(step) * FINE_UNITS <= u64::from(pair[1].tokens), "{pair:?}");
        }
    }

    #[test]
    fn a_preamble_counts_before_the_messages_whenever_it_arrives() {
        let hasher = |text: &[u8]| {
            let mut hasher = PrefixHasher::new(PrefixLayout::default());
            hasher.text(text);
            hasher
        };
        let with = hasher(&[b'm'; 512]).finish(Some(hasher(&[b'p'; 600])), seed(3));
        assert_eq!(with.len(), 4);
        assert_eq!(with[..2], hasher(&[b'p'; 600]).finish(None, seed(3)));
        assert_eq!(with[3].tokens, 150 + 128);
        let other = hasher(&[b'm'; 512]).finish(Some(hasher(&[b'q'; 600])), seed(3));
        assert!(with.iter().zip(&other).all(|(l, r)| l.hash != r.hash));
    }

    proptest! {
        #[test]
        fn where_the_text_is_cut_makes_no_difference(
            text in proptest::collection::vec(any::<u8>(), 0..5000),
            cuts in proptest::collection::vec(0usize..5000, 0..12),
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut hasher = PrefixHasher::new(PrefixLayout::default());
            let mut from = 0;
            for cut in cuts {
                hasher.text(&text[from..cut]);
                from = cut;
            }
            hasher.text(&text[from..]);
            prop_assert_eq!(hasher.tokens(), (text.len() as u64).div_ceil(4));
            prop_assert_eq!(hasher.finish(None, seed(9)), blocks_of(&text, 9));
        }
    }
}
