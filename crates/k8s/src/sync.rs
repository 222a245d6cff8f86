//! Writes `GatewaySync` objects: one a Gateway, whose change has Envoy Gateway run its hooks again.
//!
//! Every replica of the extension server writes, the Lease's holder or not: each knows best whether what it answered was
//! made of what it knows now. Two that write the same write once.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::api::{GatewaySync, GatewaySyncSpec, GatewayTarget};
use crate::calls::{CallError, Failure, Jitter, within};
use crate::key::ObjectKey;

/// How long changes are gathered: each write runs all of a Gateway's hooks, and Envoy Gateway does not coalesce them.
const GATHER: Duration = Duration::from_millis(100);
/// How often every object is looked at again.
const LOOK: Duration = Duration::from_secs(30);
/// How long one request may take.
const CALL: Duration = Duration::from_secs(10);
/// The pauses while something is in the way.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What is known, by Gateway: the digest.
pub type Digests = BTreeMap<ObjectKey, String>;

/// What this replica answered a Gateway last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The digest that the answer was made of.
    pub from: String,
    /// The object's digest and round, as Envoy Gateway showed them with its question.
    pub shown: (String, u32),
}

/// Makes every Gateway's object say its digest, and has Envoy Gateway ask again where it may have got no answer, or one
/// made of another. `answered` tells what this replica answered the Gateway last, where it did.
pub async fn keep(
    client: Client,
    mut digests: watch::Receiver<Digests>,
    answered: impl Fn(&ObjectKey) -> Option<Answered>,
) -> Infallible {
    let mut jitter = Jitter::new();
    let mut failures = 0;
    // What Envoy Gateway asked while nobody was there may have failed, and would not be asked again by itself.
    let mut seen: BTreeSet<ObjectKey> = BTreeSet::new();
    loop {
        let wanted = digests.borrow_and_update().clone();
        seen.retain(|gateway| wanted.contains_key(gateway));
        let mut has_failed = false;
        for (gateway, digest) in &wanted {
            let answered = answered(gateway);
            let is_first = answered.is_none() && !seen.contains(gateway);
            match settle(&client, gateway, digest, answered.as_ref(), is_first).await {
                Ok(true) => _ = seen.insert(gateway.clone()),
                // Somebody else wrote: what that adds up to is looked at anew.
                Ok(false) => has_failed = true,
                Err(error) => {
                    has_failed = true;
                    tracing::warn!(%gateway, %error, "the Gateway's GatewaySync cannot be written; trying on");
                }
            }
        }
        failures = if has_failed { failures + 1 } else { 0 };
        let pause = if has_failed { jitter.backoff(PAUSES.0, PAUSES.1, failures) } else { jitter.around(LOOK) };
        tokio::select! {
            changed = digests.changed() => match changed {
                Ok(()) => sleep(GATHER).await,
                // Who told is gone, and so is the process soon.
                Err(_) => std::future::pending().await,
            },
            () = sleep(pause) => {}
        }
    }
}

/// Makes one object say `digest`; where it does already, and Envoy Gateway has to ask again, counts a round on: at first,
/// and where the last question was answered from another digest and nothing would make it ask again. False where somebody
/// else wrote at the same time.
async fn settle(
    client: &Client,
    gateway: &ObjectKey,
    digest: &str,
    answered: Option<&Answered>,
    is_first: bool,
) -> Result<bool, CallError> {
    let api: Api<GatewaySync> = Api::namespaced(client.clone(), &gateway.namespace);
    let Some(found) = within(CALL, api.get_opt(&gateway.name)).await? else {
        let spec = GatewaySyncSpec {
            target_refs: vec![GatewayTarget::named(&gateway.name)],
            digest: digest.to_owned(),
            round: 0,
        };
        // Unlike a typed one it says what it is.
        let resource = ApiResource::erase::<GatewaySync>(&());
        let object = DynamicObject::new(&gateway.name, &resource).data(json!({"spec": spec}));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &gateway.namespace, &resource);
        return is_written(within(CALL, api.create(&PostParams::default(), &object)).await);
    };
    let is_stale = answered.is_some_and(|answered| {
        answered.from != digest && answered.shown == (found.spec.digest.clone(), found.spec.round)
    });
    let mut spec = found.spec.clone();
    spec.target_refs = vec![GatewayTarget::named(&gateway.name)];
    if spec.digest == digest && (is_first || is_stale) {
        spec.round = spec.round.wrapping_add(1);
    }
    spec.digest = digest.to_owned();
    if spec == found.spec {
        return Ok(true);
    }
    let patch = json!({"metadata": {"resourceVersion": found.metadata.resource_version}, "spec": spec});
    is_written(within(CALL, api.patch(&gateway.name, &PatchParams::default(), &Patch::Merge(patch))).await)
}

/// Whether a write came before everybody else's.
fn is_written<T>(result: Result<T, CallError>) -> Result<bool, CallError> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Failure::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::time::timeout;

    use super::*;
    use crate::fake_api::FakeApi;

    const PATH: &str = "/apis/pointsman.dev/v1alpha1/namespaces/default/gatewaysyncs/g";

    #[tokio::test(start_paused = true)]
    async fn an_object_says_the_digest_and_counts_answers_made_of_another() {
        let api = FakeApi::default();
        let gateway = ObjectKey::new("default", "g");
        let digests = |digest: &str| Digests::from([(gateway.clone(), digest.to_owned())]);
        let (tell, told) = watch::channel(digests("one"));
        let none = |_: &ObjectKey| None;
        let keeping = keep(api.client(), told, none);
        tokio::pin!(keeping);
        let mut run = async |tell: &dyn Fn()| -> Value {
            tell();
            let _ = timeout(Duration::from_secs(1), &mut keeping).await;
            api.object(PATH)["spec"].clone()
        };
        let first = run(&|| {}).await;
        assert_eq!((&first["digest"], &first["round"]), (&json!("one"), &json!(0)));
        assert_eq!(first["targetRefs"][0]["name"], "g");
        assert_eq!(api.object(PATH)["kind"], "GatewaySync", "an object without a kind is refused");
        let second = run(&|| _ = tell.send_replace(digests("two"))).await;
        assert_eq!((&second["digest"], &second["round"]), (&json!("two"), &json!(0)));
        let same = run(&|| _ = tell.send_replace(digests("two"))).await;
        assert_eq!(same, second);

        // Another replica wrote what this one learns now. What matters is what it was shown when it answered from the former.
        let answered = |from: &str, digest: &str, round: u32| {
            let answered = Answered { from: from.to_owned(), shown: (digest.to_owned(), round) };
            move |_: &ObjectKey| Some(answered.clone())
        };
        let table = [
            ("two", "two", 0, 0, "all is well"),
            ("one", "one", 0, 0, "the object changed since, so it is asked again by itself"),
            ("one", "two", 0, 1, "nothing else would have it asked again"),
            ("one", "two", 0, 1, "it is on its way"),
        ];
        for (from, digest, round, expected, why) in table {
            let (_tell, told) = watch::channel(digests("two"));
            let other = keep(api.client(), told, answered(from, digest, round));
            let _ = timeout(Duration::from_secs(100), other).await;
            assert_eq!(api.object(PATH)["spec"]["round"], expected, "{why}");
        }
        // One that has just started was asked for nothing yet, or could not be.
        let (_tell, told) = watch::channel(digests("two"));
        let fresh = keep(api.client(), told, none);
        let _ = timeout(Duration::from_secs(100), fresh).await;
        assert_eq!(api.object(PATH)["spec"]["round"], 2, "one round a start");
    }
}
