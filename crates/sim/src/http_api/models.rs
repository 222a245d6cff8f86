//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::server::Shared;

pub(super) async fn serve(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let config = &shared.config;
    let card = |name: &String, parent: Option<&String>| {
        json!({
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "pointsman-sim",
            "root": name,
            "parent": parent,
            "max_model_len": config.engine.kv_tokens,
        })
    };
    let base = config.models.iter().map(|name| card(name, None));
    let adapters = config.adapters.iter().map(|name| card(name, config.models.first()));
    Json(json!({"object": "list", "data": base.chain(adapters).collect::<Vec<_>>()}))
}
