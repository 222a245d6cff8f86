//! A small API server for unit tests: objects in memory, resourceVersions, and ways to fail. What a real one does with
//! a request is the suite's to show; this one shows what we do with its answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// The server. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    /// Given to what was written last.
    version: u64,
    /// Answers no request at all.
    is_away: bool,
    /// Answers this to whatever would change something.
    refusal: Option<(u16, &'static str)>,
    /// Every request that was answered.
    log: Vec<(Method, String, Value)>,
}

impl FakeApi {
    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                if api.0.lock().is_away {
                    std::future::pending::<()>().await;
                }
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
                let (code, answer) = api.answer(&head.method, head.uri.path(), body);
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(answer).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Away: requests hang.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.0.lock().is_away = is_away;
    }

    /// Refuses to change anything, or no longer does.
    pub(crate) fn refuse(&self, refusal: Option<(u16, &'static str)>) {
        self.0.lock().refusal = refusal;
    }

    /// Changes an object as somebody else would, or makes it.
    pub(crate) fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        let state = &mut *self.0.lock();
        let object = state.objects.entry(path.to_owned()).or_insert_with(|| json!({"metadata": {}}));
        edit(object);
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, path: &str) {
        self.0.lock().objects.remove(path);
    }

    /// An object; null when there is none.
    pub(crate) fn object(&self, path: &str) -> Value {
        self.0.lock().objects.get(path).cloned().unwrap_or_default()
    }

    /// All objects.
    pub(crate) fn objects(&self) -> BTreeMap<String, Value> {
        self.0.lock().objects.clone()
    }

    /// The requests that were answered since this was asked last: method, path and body.
    pub(crate) fn take_log(&self) -> Vec<(Method, String, Value)> {
        std::mem::take(&mut self.0.lock().log)
    }

    fn answer(&self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let state = &mut *self.0.lock();
        state.log.push((method.clone(), path.to_owned(), body.clone()));
        if let (Some((code, reason)), true) = (state.refusal, *method != Method::GET) {
            return failure(code, reason);
        }
        let (path, is_status) = match path.strip_suffix("/status") {
            Some(path) => (path.to_owned(), true),
            None if *method == Method::POST => {
                (format!("{path}/{}", body["metadata"]["name"].as_str().unwrap()), false)
            }
            None => (path.to_owned(), false),
        };
        let found = state.objects.get(&path);
        let written = match (method.as_str(), found) {
            ("GET", Some(found)) => return (200, found.clone()),
            ("POST", Some(_)) => return failure(409, "AlreadyExists"),
            (_, None) if *method != Method::POST => return failure(404, "NotFound"),
            (_, Some(found)) if differs(&body, found, "resourceVersion") || differs(&body, found, "uid") => {
                return failure(409, "Conflict");
            }
            ("PATCH", Some(found)) => {
                let mut merged = found.clone();
                merge(&mut merged, &if is_status { json!({"status": body["status"]}) } else { body });
                merged
            }
            _ => body,
        };
        state.version += 1;
        let mut written = written;
        written["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.insert(path, written.clone());
        (200, written)
    }
}

/// Whether a request names a version or a UID, and it is not the object's.
fn differs(body: &Value, found: &Value, field: &str) -> bool {
    !body["metadata"][field].is_null() && body["metadata"][field] != found["metadata"][field]
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
    (code, status)
}
