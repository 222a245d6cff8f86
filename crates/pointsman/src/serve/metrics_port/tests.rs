use axum::body::Body;
use http::Request;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

/// Metrics with one gauge.
fn registry() -> Arc<Mutex<MetricsRegistry>> {
    let mut registry = MetricsRegistry::default();
    registry.register("shown", "Whether it is shown", Gauge::<i64>::default());
    Arc::new(Mutex::new(registry))
}

/// Lets in `good`, knows `weak`, and has no answer on `lost`.
fn reviewer() -> DelegatedAuth {
    let answer = |request: Request<kube::client::Body>| async move {
        let body = request.into_body().collect_bytes().await.unwrap();
        let mut object: Value = serde_json::from_slice(&body).unwrap();
        let code = if object["spec"]["token"] == "lost" { 500 } else { 201 };
        object["status"] = match object["spec"]["token"].as_str() {
            Some(token @ ("good" | "weak")) => json!({"authenticated": true, "user": {"username": token}}),
            Some(_) => json!({"authenticated": false}),
            None => json!({"allowed": object["spec"]["user"] == "good"}),
        };
        let body = kube::client::Body::from(object.to_string().into_bytes());
        Ok::<_, Infallible>(http::Response::builder().status(code).body(body).unwrap())
    };
    auth(Client::new(tower::service_fn(answer), "default"))
}

async fn asked(router: &Router, authorization: &[&str]) -> Response {
    let mut request = Request::get("/metrics");
    for value in authorization {
        request = request.header("authorization", *value);
    }
    router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn without_authentication_everybody_gets_metrics() {
    let router = router(registry(), None);
    for authorization in [&[][..], &["Bearer rubbish"]] {
        assert_eq!(asked(&router, authorization).await.status(), 200);
    }
}

#[tokio::test]
async fn with_it_who_may_gets_metrics_and_the_others_are_told_why_not() {
    let router = router(registry(), Some(Arc::new(reviewer())));
    for (authorization, status) in [
        (&["Bearer good"][..], 200),
        (&["bearer  good "], 200),
        (&[], 401),
        (&["good"], 401),
        (&["Basic good"], 401),
        (&["Bearer "], 401),
        (&["Bearer rubbish"], 401),
        (&["Bearer good", "Bearer good"], 401),
        (&["Bearer weak"], 403),
        (&["Bearer lost"], 503),
    ] {
        let answer = asked(&router, authorization).await;
        assert_eq!(answer.status(), status, "{authorization:?}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), status == 401, "{authorization:?}");
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert_eq!(text.contains("shown"), status == 200, "{text}");
    }
}
