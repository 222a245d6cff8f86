//! Pickers and their admin pages, reached by a URL or through the API server.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Uri};
use http_body_util::Full;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::http_client::{Connection, dial, forward, good};

/// Where a picker's admin listener is.
#[derive(Clone)]
pub(crate) enum Way {
    /// At a URL.
    Url(Uri),
    /// In a pod, behind the API server.
    Pod { pods: Box<Api<Pod>>, pod: String, port: u16 },
}

/// One picker.
pub(crate) struct Replica {
    /// What people know it by: its pod, or the URL.
    pub(crate) name: String,
    way: Way,
    /// How long one page may take.
    limit: Duration,
    connection: Option<Connection>,
}

/// All pickers that were found; at least one.
pub(crate) struct Replicas(Vec<Replica>);

/// What a picker said, or why it did not.
pub(crate) struct Said<T> {
    pub(crate) replica: String,
    pub(crate) page: Result<T>,
}

impl Replica {
    pub(crate) fn new(way: Way, limit: Duration) -> Self {
        let name = match &way {
            Way::Url(url) => url.to_string().trim_end_matches('/').to_owned(),
            Way::Pod { pod, .. } => format!("pod {pod}"),
        };
        Self { name, way, limit, connection: None }
    }

    /// Reads a page, over the connection of the last one where that is open still.
    pub(crate) async fn page<T: DeserializeOwned>(&mut self, page: &str) -> Result<T> {
        let name = self.name.clone();
        let read = within(self.limit, async {
            let mut connection = match self.connection.take().filter(Connection::is_open) {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let body = good(connection.send(self.request(page)?).await?)?;
            self.connection = Some(connection);
            serde_json::from_slice(&body).with_context(|| format!("{page} is not as expected: is it a picker's?"))
        });
        read.await.with_context(|| format!("picker {name}"))
    }

    async fn connect(&self) -> Result<Connection> {
        match &self.way {
            Way::Url(url) => dial(url, None).await.context("is --admin-url right, and the listener open to you?"),
            Way::Pod { pods, pod, port } => {
                let (carrier, broken) = forward(pods, pod, *port).await?;
                Connection::over(carrier, Some(broken)).await
            }
        }
    }

    fn request(&self, page: &str) -> Result<Request<Full<Bytes>>> {
        let base = match &self.way {
            Way::Url(url) => url.to_string(),
            Way::Pod { port, .. } => format!("http://localhost:{port}"),
        };
        Ok(Request::get(format!("{}{page}", base.trim_end_matches('/'))).body(Full::default())?)
    }
}

impl Replicas {
    /// These; fails when there are none.
    pub(crate) fn new(ways: Vec<Way>, limit: Duration) -> Result<Self> {
        if ways.is_empty() {
            bail!("no picker is known: give --admin-url or --picker-selector");
        }
        Ok(Self(ways.into_iter().map(|way| Replica::new(way, limit)).collect()))
    }

    /// Reads a page of all of them at once.
    pub(crate) async fn pages<T: DeserializeOwned>(&mut self, page: &str) -> Vec<Said<T>> {
        join_all(self.0.iter_mut().map(async |replica| {
            let read = replica.page(page).await;
            Said { replica: replica.name.clone(), page: read }
        }))
        .await
    }

    /// Reads a page of all of them; fails when none answers. Those that do not are told to `unheard`.
    pub(crate) async fn heard<T: DeserializeOwned>(
        &mut self,
        page: &str,
        unheard: &mut Vec<String>,
    ) -> Result<Vec<(String, T)>> {
        let mut heard = Vec::new();
        for Said { replica, page } in self.pages(page).await {
            match page {
                Ok(page) => heard.push((replica, page)),
                Err(error) => unheard.push(format!("{error:#}")),
            }
        }
        if heard.is_empty() {
            bail!("no picker answers: {}", unheard.join("; "));
        }
        Ok(heard)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What comes of something that may take so long.
pub(crate) async fn within<T>(limit: Duration, doing: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, doing).await.unwrap_or_else(|_| bail!("no answer within {limit:?} (--request-timeout)"))
}

/// A value in a query.
pub(crate) fn percent_encoded(value: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::extract::Query;
    use axum::routing::get;
    use serde_json::{Value, json};

    use super::*;

    async fn serve(router: Router) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    fn replica(url: String) -> Replica {
        Replica::new(Way::Url(url.parse().unwrap()), Duration::from_secs(10))
    }

    #[tokio::test]
    async fn pages_come_below_the_urls_path_and_ids_arrive_as_they_are() {
        let echo = |Query(query): Query<Value>| async move { axum::Json(query) };
        let address = serve(Router::new().route("/prefix/debug/decisions", get(echo))).await;
        let mut replica = replica(format!("http://{address}/prefix/"));
        assert_eq!(replica.name, format!("http://{address}/prefix"));
        for id in ["r-7", "a b&c=d/é%?#\u{1b}"] {
            let page = format!("/debug/decisions?request_id={}", percent_encoded(id));
            assert_eq!(replica.page::<Value>(&page).await.unwrap(), json!({"request_id": id}));
        }
    }

    #[tokio::test]
    async fn what_goes_wrong_is_told_with_the_pickers_name() {
        let address = serve(Router::new().route("/text", get(|| async { "no JSON" }))).await;
        let mut other = replica(format!("http://{address}"));
        for (page, expected) in [("/text", "is it a picker's?"), ("/absent", "404 Not Found")] {
            let error = format!("{:#}", other.page::<Value>(page).await.unwrap_err());
            assert!(error.contains(expected) && error.contains(&address.to_string()), "{error}");
        }
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut ways =
            Replicas::new(vec![Way::Url(format!("http://{closed}").parse().unwrap())], Duration::from_secs(10))
                .unwrap();
        let error = format!("{:#}", ways.heard::<Value>("/", &mut Vec::new()).await.unwrap_err());
        assert!(error.contains("no picker answers") && error.contains("is --admin-url right"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_says_nothing_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut replica = replica(format!("http://{}", listener.local_addr().unwrap()));
        let error = format!("{:#}", replica.page::<Value>("/").await.unwrap_err());
        assert!(error.contains("no answer within 10s"), "{error}");
    }
}
