//! LoRA adapters: a few slots on the GPU, a delay to fill one.

use super::Nanos;

/// Where an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Residence {
    /// Not on the GPU.
    Absent,
    /// In a slot, usable from this time on.
    Loading(Nanos),
    /// In a slot since some load; the number orders uses, the smallest leaves first.
    Loaded(u64),
}

/// One adapter that the server was started with.
#[derive(Debug, Clone)]
struct Adapter {
    residence: Residence,
    running: usize,
    waiting: usize,
}

/// All adapters of a server and its slots.
#[derive(Debug)]
pub(super) struct Adapters {
    adapters: Vec<Adapter>,
    slots: usize,
    load_time: Nanos,
    uses: u64,
}

impl Adapters {
    pub(super) fn new(slots: usize, load_time: Nanos) -> Self {
        Self { adapters: Vec::new(), slots, load_time, uses: 0 }
    }

    /// Counts a request that begins to wait.
    pub(super) fn enqueue(&mut self, adapter: Option<usize>) {
        if let Some(adapter) = adapter.and_then(|index| self.entry(index)) {
            adapter.waiting += 1;
        }
    }

    /// Counts a request that no longer waits.
    pub(super) fn dequeue(&mut self, adapter: Option<usize>) {
        if let Some(adapter) = adapter.and_then(|index| self.entry(index)) {
            adapter.waiting = adapter.waiting.saturating_sub(1);
        }
    }

    /// Counts a request that begins to run.
    pub(super) fn begin(&mut self, adapter: Option<usize>) {
        self.uses += 1;
        let uses = self.uses;
        if let Some(adapter) = adapter.and_then(|index| self.entry(index)) {
            adapter.running += 1;
            adapter.residence = Residence::Loaded(uses);
        }
    }

    /// Counts a request that no longer runs.
    pub(super) fn end(&mut self, adapter: Option<usize>) {
        if let Some(adapter) = adapter.and_then(|index| self.entry(index)) {
            adapter.running = adapter.running.saturating_sub(1);
        }
    }

    /// Turns finished loads into loaded adapters.
    pub(super) fn settle(&mut self, now: Nanos) {
        for adapter in &mut self.adapters {
            if matches!(adapter.residence, Residence::Loading(ready) if ready <= now) {
                self.uses += 1;
                adapter.residence = Residence::Loaded(self.uses);
            }
        }
    }

    /// Whether a request with this adapter can run now; begins the load when a slot can be had.
    pub(super) fn usable(&mut self, adapter: Option<usize>, now: Nanos) -> bool {
        let Some(index) = adapter else { return true };
        match self.entry(index).map(|adapter| adapter.residence) {
            Some(Residence::Loaded(_)) => true,
            Some(Residence::Loading(_)) => false,
            None => true,
            Some(Residence::Absent) => {
                if self.make_room() {
                    let ready = now + self.load_time;
                    self.adapters[index].residence = Residence::Loading(ready);
                }
                false
            }
        }
    }

    /// When the next load is done; absent when nothing loads.
    pub(super) fn next_ready(&self) -> Option<Nanos> {
        self.adapters
            .iter()
            .filter_map(|adapter| match adapter.residence {
                Residence::Loading(ready) => Some(ready),
                _ => None,
            })
            .min()
    }

    /// Adapters with running requests, by number.
    pub(super) fn running(&self) -> impl Iterator<Item = usize> {
        self.adapters.iter().enumerate().filter(|(_, adapter)| adapter.running > 0).map(|(index, _)| index)
    }

    /// Adapters with waiting requests, by number.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> {
        self.adapters.iter().enumerate().filter(|(_, adapter)| adapter.waiting > 0).map(|(index, _)| index)
    }

    /// Finds a free slot, or frees the one whose idle adapter was used longest ago.
    fn make_room(&mut self) -> bool {
        let resident = self.adapters.iter().filter(|adapter| adapter.residence != Residence::Absent).count();
        if resident < self.slots {
            return true;
        }
        let idle = self.adapters.iter_mut().filter(|adapter| adapter.running == 0);
        let oldest = idle
            .filter_map(|adapter| match adapter.residence {
                Residence::Loaded(used) => Some((used, adapter)),
                _ => None,
            })
            .min_by_key(|(used, _)| *used);
        match oldest {
            Some((_, adapter)) => {
                adapter.residence = Residence::Absent;
                true
            }
            None => false,
        }
    }

    /// The adapter of this number; numbers beyond the bound are treated as the base model.
    fn entry(&mut self, index: usize) -> Option<&mut Adapter> {
        const MOST: usize = 4_096;
        if index >= MOST {
            return None;
        }
        if index >= self.adapters.len() {
            let absent = Adapter { residence: Residence::Absent, running: 0, waiting: 0 };
            self.adapters.resize(index + 1, absent);
        }
        self.adapters.get_mut(index)
    }
}
