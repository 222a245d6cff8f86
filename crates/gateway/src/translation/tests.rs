//! Claims about what becomes of route rules: a table of shapes with all that is made of each, and what holds for all.

mod shape;
mod shapes;
mod told;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use pointsman_envoy::xds::EdsServer;
use prost::Message as _;

use self::shape::{FUTURE, RULE, Shape, gateway_cluster};
use self::told::tell;
use super::*;

fn settings() -> Settings {
    let tls = pointsman_envoy::bootstrap::PeerTls {
        ca: pointsman_envoy::bootstrap::Pem::Inline("CA".into()),
        server_name: "pointsman-gateway.pointsman.svc".into(),
        client: None,
    };
    let eds = EdsServer { address: "pointsman-gateway.pointsman.svc:9004".parse().unwrap(), tls: Some(tls) };
    Settings { eds, max_streams: 10_000 }
}

fn translated(shape: &Shape) -> Translated {
    translate(&shape.resources(), &shape.picture(), &settings()).unwrap()
}

/// What each shape becomes. A run with `POINTSMAN_TELL=FILE` writes what there is now, to be read and taken over.
const TOLD: &str = include_str!("tests/shapes.txt");

#[test]
fn every_shape_becomes_what_is_written_of_it() {
    let mut told = String::new();
    for shape in shapes::all() {
        told += &format!("# {}\n{}\n", shape.name, tell(&translated(&shape)));
    }
    if let Some(file) = std::env::var_os("POINTSMAN_TELL") {
        std::fs::write(file, &told).unwrap();
    }
    let sections = |text: &str| text.split_inclusive("\n\n").map(str::to_owned).collect::<Vec<_>>();
    for (found, wanted) in sections(&told).iter().zip(sections(TOLD)) {
        assert_eq!(*found, wanted);
    }
    assert_eq!(told, TOLD);
}

#[test]
fn the_table_is_long_enough() {
    let shapes = shapes::all();
    let names: BTreeSet<_> = shapes.iter().map(|shape| shape.name).collect();
    assert!(names.len() == shapes.len() && shapes.len() >= 30, "{}", shapes.len());
}

#[test]
fn fields_of_a_version_to_come_stay() {
    let made = translated(&Shape::of("one pool", &["a"])).resources;
    let cluster = made.clusters.iter().map(|cluster| Message::read(cluster).unwrap());
    let cluster = cluster.into_iter().find(|cluster| cluster.text(1).ends_with("/pool/default/a")).unwrap();
    assert_eq!(cluster.bytes(FUTURE), Some(&b"kept"[..]));
    let routes = Message::read(&made.routes[0]).unwrap();
    let route = routes.message(VIRTUAL_HOSTS).unwrap();
    let route = Message::read(route.all(ROUTES).next().unwrap()).unwrap();
    assert_eq!(route.bytes(FUTURE), Some(&b"kept"[..]));
}

#[test]
fn what_leads_to_no_pool_goes_back_as_it_came() {
    let plain = Resources {
        clusters: vec![gateway_cluster(RULE).encode_to_vec().into()],
        ..Shape::of("no pool", &[]).resources()
    };
    let made = translate(&plain, &Shape::of("one pool", &["a"]).picture(), &settings()).unwrap();
    assert_eq!(made.resources, plain);
    assert!(made.rules.is_empty());
    let one = Shape::of("one pool", &["a"]);
    assert!(translated(&one).resources.clusters.contains(one.resources().clusters.last().unwrap()));
}

#[test]
fn the_same_question_gets_the_same_bytes() {
    for shape in shapes::all() {
        assert_eq!(translated(&shape).resources, translated(&shape).resources, "{}", shape.name);
    }
}

#[test]
fn what_was_translated_stays_when_it_is_translated_again() {
    for shape in shapes::all() {
        let once = translated(&shape).resources;
        assert_eq!(translate(&once, &shape.picture(), &settings()).unwrap().resources, once, "{}", shape.name);
    }
}

#[test]
fn every_broken_message_is_refused_without_a_panic() {
    let shape = Shape::of("one pool", &["a"]);
    let whole = shape.resources();
    for kind in 0..3 {
        let take = |resources: &mut Resources| match kind {
            0 => std::mem::take(&mut resources.clusters),
            1 => std::mem::take(&mut resources.listeners),
            _ => std::mem::take(&mut resources.routes),
        };
        let whole_of_kind = take(&mut whole.clone());
        let bytes = &whole_of_kind[0];
        for at in 0..bytes.len() {
            for broken in [bytes[..at].to_vec(), [&bytes[..at], &[0xff], &bytes[at + 1..]].concat()] {
                let mut resources = whole.clone();
                match kind {
                    0 => resources.clusters[0] = broken.into(),
                    1 => resources.listeners[0] = broken.into(),
                    _ => resources.routes[0] = broken.into(),
                }
                let _ = translate(&resources, &shape.picture(), &settings());
            }
        }
    }
}

#[test]
fn no_cluster_has_the_name_of_another_and_every_named_one_is_there() {
    for shape in shapes::all() {
        let made = translated(&shape);
        let names: Vec<_> =
            made.resources.clusters.iter().map(|cluster| Cluster::decode(&**cluster).unwrap().name).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{}: {names:?}", shape.name);
        for named in told::named_clusters(&made) {
            assert!(named == "invalid-backend-cluster" || distinct.contains(&named), "{}: {named}", shape.name);
        }
    }
}
