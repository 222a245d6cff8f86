//! Claims about pools, and the fixture that other tests of this crate build pools with.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::endpoint::{Endpoint, InFlight};
use crate::explanation::Fate;
use crate::facts::{Facts, Model, Subset};
use crate::load::{Load, LoadReport};
use crate::policy::NamedFilter;
use crate::prefix::PrefixBlock;
use crate::reason::Reason;
use crate::signals::{SignalColumns, Signals};

/// A pool of endpoints named `a`, `b`, ... at 10.0.0.1:8000, 10.0.0.2:8000, ..., with a clock of its own.
pub(crate) struct PoolFixture {
    pub(crate) pool: Arc<Pool>,
    pub(crate) writer: PoolWriter,
    pub(crate) now: Tick,
}

pub(crate) fn endpoint(row: usize) -> Endpoint {
    let name = char::from(b'a' + (row % 26) as u8).to_string();
    Endpoint::new(&format!("{name}{}", row / 26), address(row))
}

pub(crate) fn address(row: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (row / 250) as u8, (row % 250) as u8 + 1], 8000))
}

impl PoolFixture {
    pub(crate) fn new(len: usize, policy: Policy) -> Self {
        let (pool, mut writer) = Pool::new("default/test", Arc::new(policy), 1);
        writer.set_members((0..len).map(endpoint));
        writer.publish();
        Self { pool, writer, now: Tick(1_000_000_000) }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    /// Counts requests in flight, by row, until the result is dropped.
    pub(crate) fn hold(&self, in_flight: &[u32]) -> Vec<InFlight> {
        let cells = self.pool.snapshot().members.cells.clone();
        let held = in_flight.iter().zip(&cells);
        held.flat_map(|(count, cell)| (0..*count).map(|_| InFlight::count(cell, 10, 0))).collect()
    }

    /// A request that was picked for this row.
    pub(crate) fn depart(&self, row: usize, facts: &Facts) -> Flight {
        Flight::depart(&self.pool, &self.pool.snapshot().members.cells[row], facts, 0, self.now)
    }

    pub(crate) fn report_load(&mut self, row: usize, load: Load) {
        let snapshot = self.pool.snapshot();
        let in_flight_at_scrape = snapshot.members.cells[row].in_flight();
        let load = Load { at: self.now, in_flight_at_scrape, ..load };
        self.writer.record_load(LoadReport { endpoint: snapshot.members.ids[row], load });
        self.writer.publish();
    }

    /// Reports `(waiting, running, kv)` by row; `None` is an endpoint that does not answer.
    pub(crate) fn report(&mut self, loads: &[Option<(f32, f32, f32)>]) {
        for (row, load) in loads.iter().enumerate() {
            if let Some((waiting, running, kv_cache_usage)) = *load {
                self.report_load(row, Load { waiting, running, kv_cache_usage, ..Load::default() });
            }
        }
    }

    pub(crate) fn remember(&self, row: usize, blocks: &[PrefixBlock]) {
        let id = self.pool.snapshot().members.ids[row];
        self.pool.turn.lock().index.predict(id, blocks);
    }

    pub(crate) fn signals<R>(&self, facts: &Facts, read: impl FnOnce(&Signals<'_>) -> R) -> R {
        let snapshot = self.pool.snapshot();
        let rows: Vec<u32> = (0u32..).take(snapshot.members.len()).collect();
        let mut columns = SignalColumns::default();
        read(&columns.compute(facts, &snapshot, &rows, &self.pool.turn.lock().index, self.now))
    }

    pub(crate) fn pick(&self, facts: &Facts, subset: Subset) -> Decision {
        self.pool.pick(Request { facts, subset: &subset, headers: None }, self.now)
    }
}

fn picked(decision: Decision) -> Picked {
    match decision {
        Decision::Picked(picked) => picked,
        Decision::Nothing(reason) => panic!("nothing picked: {reason}"),
    }
}

fn reason(decision: Decision) -> Reason {
    match decision {
        Decision::Picked(picked) => panic!("picked {:?}", picked.decode.choices[0].endpoint.name),
        Decision::Nothing(reason) => reason,
    }
}

fn first(picked: &Picked) -> SocketAddr {
    picked.decode.choices[0].endpoint.address
}

fn prompt(seed: u64, len: u64) -> Facts {
    let blocks = (1..=len).map(|n| PrefixBlock { hash: seed * 1000 + n, tokens: 64 * n as u32 });
    Facts { prefix: blocks.collect(), prompt_tokens: 64 * len, ..Facts::default() }
}

#[test]
fn a_burst_between_two_scrapes_does_not_herd() {
    let mut fixture = PoolFixture::new(4, Policy::default());
    fixture.report(&[Some((0.0, 0.0, 0.0)); 4]);
    let flights: Vec<_> = (0..40).map(|_| picked(fixture.pick(&Facts::default(), None))).collect();
    let cells = &fixture.pool.snapshot().members.cells;
    assert!(cells.iter().all(|cell| cell.in_flight() == 10), "{cells:?}");
    drop(flights);
    assert!(cells.iter().all(|cell| cell.in_flight() == 0 && cell.in_flight_tokens() == 0));
}

#[test]
fn routes_to_the_pod_that_holds_the_prefix() {
    let mut fixture = PoolFixture::new(3, Policy::default());
    fixture.report(&[Some((0.0, 0.0, 0.0)); 3]);
    let mut flight = picked(fixture.pick(&prompt(1, 20), None));
    let home = first(&flight);
    flight.flight.response_began();
    drop(flight);
    for _ in 0..10 {
        let mut again = picked(fixture.pick(&prompt(1, 20), None));
        assert_eq!((first(&again), again.matched_tokens), (home, 1280));
        again.flight.response_began();
    }
}

#[test]
fn a_prefix_that_no_response_confirmed_is_forgotten() {
    let fixture = PoolFixture::new(1, Policy::default());
    drop(picked(fixture.pick(&prompt(1, 20), None)));
    assert_eq!(picked(fixture.pick(&prompt(1, 20), None)).matched_tokens, 0);
}

#[test]
fn load_and_prefix_move_to_the_endpoint_that_served() {
    let fixture = PoolFixture::new(2, Policy::default());
    let mut flight = picked(fixture.pick(&prompt(1, 5), None));
    let other = flight.decode.choices[1].clone();
    flight.flight.served_by(other.endpoint.address);
    flight.flight.response_began();
    assert_eq!(flight.flight.cell().id(), other.cell.id());
    assert_eq!(flight.decode.choices[0].cell.in_flight(), 0);
    assert_eq!((other.cell.in_flight(), other.cell.streaming()), (1, 1));
    drop(flight);
    assert_eq!((other.cell.in_flight(), other.cell.streaming()), (0, 0));
    assert_eq!(first(&picked(fixture.pick(&prompt(1, 5), None))), other.endpoint.address);
}

#[test]
fn a_pod_that_comes_back_as_another_inherits_nothing() {
    let mut fixture = PoolFixture::new(1, Policy::default());
    fixture.report(&[Some((7.0, 7.0, 0.7))]);
    let mut flight = picked(fixture.pick(&prompt(1, 5), None));
    flight.flight.response_began();
    let former = fixture.pool.snapshot().members.ids[0];
    let reborn = Endpoint { uid: "another-uid".into(), ..endpoint(0) };
    fixture.writer.set_members(vec![reborn]);
    fixture.writer.publish();
    let snapshot = fixture.pool.snapshot();
    assert_eq!(snapshot.members.ids[0].slot, former.slot);
    assert_ne!(snapshot.members.ids[0], former);
    assert_eq!((snapshot.load.at[0], snapshot.load.waiting[0]), (None, 0.0));
    assert_eq!(snapshot.members.cells[0].in_flight(), 0);
    fixture.writer.record_load(LoadReport { endpoint: former, load: Load { waiting: 9.0, ..Load::default() } });
    fixture.writer.publish();
    assert_eq!(fixture.pool.snapshot().load.at[0], None);
    drop(flight);
    assert_eq!(snapshot.members.cells[0].in_flight(), 0);
    assert_eq!(picked(fixture.pick(&prompt(1, 5), None)).matched_tokens, 0);
}

#[test]
fn members_that_stay_keep_what_is_known_of_them() {
    let mut fixture = PoolFixture::new(3, Policy::default());
    fixture.report(&[Some((1.0, 0.0, 0.0)), Some((2.0, 0.0, 0.0)), Some((3.0, 0.0, 0.0))]);
    let _held = fixture.hold(&[1, 2, 3]);
    let relabelled = Endpoint { labels: [("x".into(), "y".into())].into(), ..endpoint(2) };
    fixture.writer.set_members(vec![relabelled, endpoint(5), endpoint(0)]);
    fixture.writer.publish();
    let snapshot = fixture.pool.snapshot();
    assert_eq!(snapshot.load.waiting, [3.0, 0.0, 1.0]);
    let in_flight: Vec<_> = snapshot.members.cells.iter().map(|cell| cell.in_flight()).collect();
    assert_eq!(in_flight, [3, 0, 1]);
    assert_eq!(snapshot.members.endpoints[0].labels["x"], "y");
}

#[test]
fn the_subset_is_obeyed_and_an_empty_one_refuses() {
    let fixture = PoolFixture::new(4, Policy::default());
    for _ in 0..20 {
        let flight = picked(fixture.pick(&Facts::default(), Some(vec![address(2), address(99)])));
        assert_eq!((first(&flight), flight.decode.choices.len()), (address(2), 1));
    }
    assert_eq!(reason(fixture.pick(&Facts::default(), Some(vec![]))), Reason::SubsetEmpty);
    assert_eq!(reason(fixture.pick(&Facts::default(), Some(vec![address(99)]))), Reason::SubsetEmpty);
    let other_port = SocketAddr::new(address(1).ip(), 9);
    assert_eq!(reason(fixture.pick(&Facts::default(), Some(vec![other_port]))), Reason::SubsetEmpty);
}

#[test]
fn an_empty_pool_and_filters_that_leave_nothing_are_reasons() {
    assert_eq!(reason(PoolFixture::new(0, Policy::default()).pick(&Facts::default(), None)), Reason::NoReadyEndpoint);
    let mut policy = Policy::default();
    let def = crate::filters::BUILTIN[0];
    let filter = (def.build)(serde_json::json!({"matchLabels": {"tier": "fast"}})).unwrap();
    policy.profile.filters.push(NamedFilter { name: def.name.into(), filter });
    let fixture = PoolFixture::new(2, policy);
    assert_eq!(reason(fixture.pick(&Facts::default(), None)), Reason::FilteredOut);
}

#[test]
fn stale_telemetry_never_stops_dispatch_and_own_load_still_spreads() {
    let mut fixture = PoolFixture::new(3, Policy::default());
    fixture.report(&[Some((50.0, 0.0, 1.0)), None, Some((0.0, 0.0, 0.0))]);
    fixture.advance(Duration::from_secs(60));
    let _flights: Vec<_> = (0..30).map(|_| picked(fixture.pick(&Facts::default(), None))).collect();
    let cells = &fixture.pool.snapshot().members.cells;
    assert!(cells.iter().all(|cell| cell.in_flight() == 10), "{cells:?}");
}

#[test]
fn fallbacks_are_the_next_best() {
    let mut fixture = PoolFixture::new(4, Policy::default());
    fixture.report(&[Some((30.0, 0.0, 0.0)), Some((0.0, 0.0, 0.0)), Some((20.0, 0.0, 0.0)), Some((10.0, 0.0, 0.0))]);
    let flight = picked(fixture.pick(&Facts::default(), None));
    let addresses: Vec<_> = flight.decode.choices.iter().map(|choice| choice.endpoint.address).collect();
    assert_eq!(addresses, [address(1), address(3), address(2)]);
}

#[test]
fn an_explanation_tells_scores_fates_and_ages() {
    let mut fixture = PoolFixture::new(3, Policy::default());
    fixture.report(&[Some((0.0, 0.0, 0.5)), None, Some((4.0, 0.0, 0.5))]);
    fixture.advance(Duration::from_millis(30));
    let facts = Facts { request_id: "r-1".into(), model: Some(Model::new("m")), ..prompt(1, 4) };
    let subset = Some(vec![address(0), address(2)]);
    let _flight = picked(fixture.pick(&facts, subset));
    drop(fixture.pick(&prompt(2, 1), None));
    let why = fixture.pool.explanations(10, Some("r-1"));
    assert_eq!(why.len(), 1);
    let why = &why[0];
    assert_eq!(why.model.as_deref(), Some("m"));
    let fates: Vec<_> = why.rows.iter().map(|row| (&*row.endpoint.name, row.fate.clone())).collect();
    assert_eq!(
        fates,
        [
            ("a0", Fate::Chosen { score: 3.0, place: 0 }),
            ("c0", Fate::Chosen { score: 1.0, place: 1 }),
            ("b0", Fate::OutsideSubset)
        ]
    );
    assert_eq!(why.scores, [1.0, 0.5, 0.0, 0.0, 0.5, 0.0]);
    assert_eq!(why.rows[0].telemetry_age, Some(Duration::from_millis(30)));
    assert_eq!(why.rows[2].telemetry_age, None);
}

#[test]
fn a_large_pool_explains_no_more_than_its_share() {
    let fixture = PoolFixture::new(1000, Policy::default());
    drop(fixture.pick(&Facts::default(), Some((0..200).map(address).collect())));
    let why = fixture.pool.explanations(1, None).remove(0);
    assert_eq!((why.rows.len(), why.rows_left_out), (Explanation::MAX_ROWS, 1000 - Explanation::MAX_ROWS));
}
