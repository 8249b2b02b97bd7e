//! JSON at rest: as text, a tenth of what its tree of maps takes.

use serde_json::Value;

/// A value that is looked at only when its Rollout is.
#[derive(Clone, Debug)]
pub struct Packed(Box<str>);

impl Packed {
    pub fn of(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    pub fn unpack(&self) -> Value {
        serde_json::from_str(&self.0).expect("what serde_json wrote it can read")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let value =
            json!({"text": "a \"b\" \u{1f600}\n", "numbers": [0, -1, u64::MAX, i64::MIN, 0.5], "nothing": null, "deep": {"a": [{}, []]}});
        assert_eq!(Packed::of(&value).unpack(), value);
        assert_eq!(Packed::of(&Value::Null).unpack(), Value::Null);
    }
}
