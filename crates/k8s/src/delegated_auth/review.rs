//! One review: two questions to the API server.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::Client;
use kube::api::PostParams;
use kube::core::Request;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Access;

/// Asks whose token it is, and whether they may `get` the path.
pub(super) async fn review(client: &Client, token: &str, path: &str) -> kube::Result<Access> {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
    let status: Option<TokenReviewStatus> = ask(client, &TokenReview { spec, ..TokenReview::default() }).await?;
    let user = status.filter(|status| status.authenticated == Some(true)).and_then(|status| status.user);
    let Some(UserInfo { username: Some(user), groups, uid, extra }) = user else { return Ok(Access::Unauthenticated) };
    let attributes = NonResourceAttributes { path: Some(path.to_owned()), verb: Some("get".to_owned()) };
    let spec = SubjectAccessReviewSpec {
        user: Some(user),
        groups,
        uid,
        extra,
        non_resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let asked = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let status: Option<SubjectAccessReviewStatus> = ask(client, &asked).await?;
    let is_allowed = status.is_some_and(|status| status.allowed && status.denied != Some(true));
    Ok(if is_allowed { Access::Granted } else { Access::Forbidden })
}

/// The part of an answer that is read: the rest repeats the question, the token with it.
#[derive(Deserialize)]
struct Answer<S> {
    status: Option<S>,
}

/// Sends a question that the API server answers in the object's status. Not by `Api::create`, which logs an answer that
/// it cannot read.
async fn ask<K, S>(client: &Client, asked: &K) -> kube::Result<Option<S>>
where
    K: kube::Resource<DynamicType = ()> + Serialize,
    S: DeserializeOwned,
{
    let body = serde_json::to_vec(asked).map_err(kube::Error::SerdeError)?;
    let request = Request::new(K::url_path(&(), None)).create(&PostParams::default(), body);
    let text = client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
    let answer: Answer<S> = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
    Ok(answer.status)
}
