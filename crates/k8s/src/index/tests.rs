//! What sights add up to. Objects are written as their owners write them, so that what is kept of them is tested too.

mod fixture;
mod members;
mod models;
mod policies;
mod pools;
mod properties;
mod services;

use pointsman_core::endpoint::Endpoint;

use super::*;
use crate::events::NoticeReason;
use crate::verdict::{Reason, Says, Subject, SubjectKind};
