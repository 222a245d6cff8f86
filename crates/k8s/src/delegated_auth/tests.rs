use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::memory::ENTRIES_MAX;
use super::*;

/// An API server that knows two tokens, of which one has the right, and counts what it is asked.
#[derive(Clone, Default)]
struct Reviewer(Arc<Counts>);

#[derive(Default)]
struct Counts {
    token_reviews: AtomicUsize,
    access_reviews: AtomicUsize,
    /// Answers nothing while there is one, or with this status.
    fault: Mutex<Option<Fault>>,
    /// The last question of each kind.
    asked: Mutex<Vec<Value>>,
}

#[derive(Clone, Copy)]
enum Fault {
    Hangs,
    Answers(u16),
}

const HALTING: Duration = Duration::from_millis(100);

impl Reviewer {
    fn auth(&self) -> Arc<DelegatedAuth> {
        let reviewer = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| reviewer.clone().answer(request));
        Arc::new(DelegatedAuth::new(Client::new(service, "default"), "/metrics"))
    }

    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, std::convert::Infallible> {
        tokio::time::sleep(HALTING).await;
        let (head, body) = request.into_parts();
        let mut object: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
        let fault = *self.0.fault.lock();
        let path = head.uri.path().to_owned();
        let is_of_token = path == "/apis/authentication.k8s.io/v1/tokenreviews";
        assert!(is_of_token || path == "/apis/authorization.k8s.io/v1/subjectaccessreviews", "{path}");
        let count = if is_of_token { &self.0.token_reviews } else { &self.0.access_reviews };
        count.fetch_add(1, Ordering::Relaxed);
        let code = match fault {
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Answers(code)) => code,
            None => 201,
        };
        self.0.asked.lock().push(object.clone());
        object["status"] = match (code, is_of_token) {
            (201, true) => match object["spec"]["token"].as_str().unwrap() {
                known @ ("scraper" | "stranger") => json!({"authenticated": true, "user": {
                    "username": known, "uid": "7", "groups": ["all"], "extra": {"pod": ["a"]},
                }}),
                _ => json!({"authenticated": false, "error": "invalid bearer token"}),
            },
            (201, false) => json!({"allowed": object["spec"]["user"] == "scraper"}),
            _ => Value::Null,
        };
        if code != 201 {
            object = json!({"kind": "Status", "status": "Failure", "code": code, "reason": "", "message": ""});
        }
        Ok(Response::builder().status(code).body(Body::from(object.to_string().into_bytes())).unwrap())
    }

    /// How often either review was asked for since this was called last.
    fn take_counts(&self) -> (usize, usize) {
        (self.0.token_reviews.swap(0, Ordering::Relaxed), self.0.access_reviews.swap(0, Ordering::Relaxed))
    }

    fn fail(&self, fault: Option<Fault>) {
        *self.0.fault.lock() = fault;
    }
}

#[tokio::test(start_paused = true)]
async fn the_api_server_says_who_is_let_in() {
    let reviewer = Reviewer::default();
    let auth = reviewer.auth();
    assert_eq!(auth.access("scraper").await, Access::Granted);
    let asked = std::mem::take(&mut *reviewer.0.asked.lock());
    assert_eq!(asked[0]["spec"], json!({"token": "scraper"}));
    assert_eq!(
        asked[1]["spec"],
        json!({
            "user": "scraper", "uid": "7", "groups": ["all"], "extra": {"pod": ["a"]},
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        })
    );
    assert_eq!(auth.access("stranger").await, Access::Forbidden);
    assert_eq!(auth.access("rubbish").await, Access::Unauthenticated);
    assert_eq!(reviewer.take_counts(), (3, 2), "nobody's token has no rights to ask for");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_is_not_reviewed() {
    let reviewer = Reviewer::default();
    let auth = reviewer.auth();
    for text in ["", "=", "two words", "tök", "a=b", "a\nb", &"a".repeat(TOKEN_MAX + 1)] {
        assert_eq!(auth.access(text).await, Access::Unauthenticated, "{text}");
    }
    assert_eq!(reviewer.take_counts(), (0, 0));
    auth.access(&format!("{}==", "a.B-9_~+/".repeat(100))).await;
    assert_eq!(reviewer.take_counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_said_counts_for_a_while() {
    let reviewer = Reviewer::default();
    let auth = reviewer.auth();
    for (token, access, life) in [
        ("scraper", Access::Granted, 60),
        ("stranger", Access::Forbidden, 10),
        ("rubbish", Access::Unauthenticated, 10),
    ] {
        assert_eq!(auth.access(token).await, access);
        reviewer.take_counts();
        tokio::time::sleep(Duration::from_secs(life) - 2 * HALTING).await;
        assert_eq!(auth.access(token).await, access);
        assert_eq!(reviewer.take_counts(), (0, 0), "{token}");
        tokio::time::sleep(2 * HALTING).await;
        assert_eq!(auth.access(token).await, access);
        assert_eq!(reviewer.take_counts().0, 1, "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_review_serves_all_that_wait_and_goes_on_without_them() {
    let reviewer = Reviewer::default();
    let auth = reviewer.auth();
    let asking = (0..50).map(|_| auth.access("scraper"));
    assert!(futures::future::join_all(asking).await.iter().all(|access| *access == Access::Granted));
    assert_eq!(reviewer.take_counts(), (1, 1));

    let gone = tokio::time::timeout(HALTING / 2, auth.access("stranger")).await;
    assert!(gone.is_err());
    tokio::time::sleep(3 * HALTING).await;
    assert_eq!(reviewer.take_counts(), (1, 1));
    assert_eq!(auth.access("stranger").await, Access::Forbidden);
    assert_eq!(reviewer.take_counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_lets_in_whom_it_let_in_lately_and_nobody_else() {
    let reviewer = Reviewer::default();
    let auth = reviewer.auth();
    auth.access("scraper").await;
    for (fault, limit) in [(Fault::Hangs, REVIEW), (Fault::Answers(500), REVIEW), (Fault::Answers(403), REVIEW)] {
        reviewer.fail(Some(fault));
        let start = Instant::now();
        let (known, other) = tokio::join!(auth.access("scraper"), auth.access("stranger"));
        assert_eq!((known, other), (Access::Granted, Access::Unknown));
        assert!(start.elapsed() <= limit + HALTING, "{:?}", start.elapsed());
    }
    reviewer.fail(None);
    assert_eq!(auth.access("stranger").await, Access::Forbidden, "a failure is not remembered");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tokens_is_bounded_and_displaces_no_good_one() {
    let reviewer = Reviewer::default();
    let auth = reviewer.auth();
    auth.access("scraper").await;
    for round in 0..2 * ENTRIES_MAX {
        let tokens: Vec<String> = (0..4).map(|number| format!("rubbish-{round}-{number}")).collect();
        futures::future::join_all(tokens.iter().map(|token| auth.access(token))).await;
        if auth.state.lock().memory.len() > ENTRIES_MAX {
            break;
        }
    }
    assert_eq!(auth.state.lock().memory.len(), ENTRIES_MAX + 1);
    reviewer.take_counts();
    assert_eq!(auth.access("scraper").await, Access::Granted);
    assert_eq!(reviewer.take_counts(), (0, 0));

    reviewer.fail(Some(Fault::Hangs));
    let tokens: Vec<String> = (0..100).map(|number| format!("more-{number}")).collect();
    let flood = futures::future::join_all(tokens.iter().map(|token| auth.access(token))).await;
    let count = |access| flood.iter().filter(|found| **found == access).count();
    assert_eq!((count(Access::Unknown), count(Access::Busy)), (REVIEWS_MAX, flood.len() - REVIEWS_MAX));
    assert_eq!(reviewer.take_counts().0, REVIEWS_MAX);
    assert_eq!(auth.state.lock().memory.len(), ENTRIES_MAX + 1);

    // Whoever was let in lately is reviewed in the midst of it.
    tokio::time::sleep(Duration::from_secs(61)).await;
    let held: Vec<String> = (0..REVIEWS_MAX).map(|number| format!("held-{number}")).collect();
    let flood = futures::future::join_all(held.iter().map(|token| auth.access(token)));
    let scraper = async {
        tokio::time::sleep(HALTING).await;
        assert_eq!(auth.access("nobody").await, Access::Busy);
        reviewer.fail(None);
        auth.access("scraper").await
    };
    assert_eq!(tokio::join!(flood, scraper).1, Access::Granted);
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_of_the_api_server_costs_no_metrics_and_a_right_that_was_taken_away_counts_at_once() {
    let reviewer = Reviewer::default();
    let auth = reviewer.auth();
    auth.access("scraper").await;
    reviewer.fail(Some(Fault::Hangs));
    for minute in 0..90 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let expected = if minute < 55 { Some(Access::Granted) } else { None };
        let found = auth.access("scraper").await;
        assert!(expected.is_none_or(|expected| found == expected), "minute {minute}: {found:?}");
    }
    assert_eq!(auth.access("scraper").await, Access::Unknown, "not for ever");

    reviewer.fail(None);
    auth.access("scraper").await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    reviewer.fail(Some(Fault::Answers(403)));
    assert_eq!(auth.access("scraper").await, Access::Unknown, "that is an answer");
}

#[test]
fn a_failure_is_told_with_its_mend_and_without_the_token() {
    let refused = CallError::Answered {
        code: 403,
        reason: "Forbidden".to_owned(),
        message: "may not review scraper-token".to_owned(),
        retry_after: Duration::ZERO,
    };
    let told = complaint(&refused, "scraper-token");
    assert!(told.contains("may not review TOKEN (403 Forbidden)"), "{told}");
    assert!(told.contains("pointsman roles --metrics-auth"), "{told}");
    let told = complaint(&CallError::TimedOut(REVIEW), "a");
    assert!(told.contains("no answer from the API server") && !told.contains("roles"), "{told}");
}
