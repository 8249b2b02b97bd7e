//! Who asks, and for which part of an object.

use jiff::Timestamp;
use serde_json::json;

use super::Request;
use super::error::{ApiError, FieldError};
use super::kinds::Kind;
use super::path::Query;

/// Who writes, when, and whether in earnest.
#[derive(Debug, Clone)]
pub struct Caller {
    pub actor: String,
    pub manager: String,
    pub dry_run: bool,
    /// Fields that the schema does not know are refused, not dropped.
    pub strict: bool,
    pub now: Timestamp,
}

impl Caller {
    pub fn new(actor: &str, now: Timestamp) -> Self {
        Self { actor: actor.to_owned(), manager: actor.to_owned(), dry_run: false, strict: false, now }
    }

    pub(super) fn of(request: &Request, query: &Query, now: Timestamp) -> Result<Self, ApiError> {
        let dry_run = query.get("dryRun").or(request.body["dryRun"][0].as_str());
        if dry_run.is_some_and(|d| d != "All") || (dry_run.is_some() && !request.is_write()) {
            let asked = json!([dry_run]);
            let error = FieldError {
                field: "dryRun".into(),
                reason: "FieldValueNotSupported",
                message: format!("Unsupported value: {asked}: supported values: \"All\""),
            };
            let options = match request.method.as_str() {
                "POST" => "CreateOptions",
                "DELETE" => "DeleteOptions",
                "PATCH" => "PatchOptions",
                _ => "UpdateOptions",
            };
            return Err(ApiError::invalid_options(options, error));
        }
        let manager = query.get("fieldManager").unwrap_or(&request.actor).to_owned();
        Ok(Self {
            actor: request.actor.clone(),
            manager,
            dry_run: dry_run.is_some(),
            strict: query.get("fieldValidation") == Some("Strict"),
            now,
        })
    }
}

/// What part of an object a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Object,
    Status,
    Scale,
    /// A namespace's own finalizers.
    Finalize,
    /// A pod's eviction: a deletion.
    Eviction,
}

impl Part {
    pub(super) fn parse(kind: &Kind, name: &str, subresource: Option<&str>) -> Result<Self, ApiError> {
        match subresource {
            None => Ok(Self::Object),
            Some("status") if kind.has_status => Ok(Self::Status),
            Some("scale") if kind.scale.is_some() => Ok(Self::Scale),
            Some("finalize") if &*kind.id == "namespaces" => Ok(Self::Finalize),
            Some("eviction") if &*kind.id == "pods" => Ok(Self::Eviction),
            Some(_) if kind.custom => Err(ApiError::not_found(kind, name)),
            Some(_) => Err(ApiError::no_such_path()),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Object => "",
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Finalize => "finalize",
            Self::Eviction => "eviction",
        }
    }
}
