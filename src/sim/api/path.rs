//! What a request's path and query name.

use std::collections::BTreeMap;

/// A resource path: `/api/v1/...` or `/apis/<group>/<version>/...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts: Vec<String> = path.split('/').filter(|p| !p.is_empty()).map(decode).collect();
        let (group, version) = match parts.first().map(String::as_str) {
            Some("api") if parts.len() >= 2 => (String::new(), parts.remove(1)),
            Some("apis") if parts.len() >= 3 => (parts.remove(1), parts.remove(1)),
            _ => return None,
        };
        parts.remove(0);
        let in_namespace =
            parts.len() >= 3 && parts[0] == "namespaces" && !(parts.len() == 3 && matches!(parts[2].as_str(), "status" | "finalize"));
        let namespace = in_namespace.then(|| parts.remove(1));
        if in_namespace {
            parts.remove(0);
        }
        let mut parts = parts.into_iter();
        let target = Self { group, version, plural: parts.next()?, namespace, name: parts.next(), subresource: parts.next() };
        parts.next().is_none().then_some(target)
    }
}

/// A query string's parameters, decoded; the last of several with one name counts.
#[derive(Debug, Clone, Default)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    pub fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|p| p.split_once('=').unwrap_or((p, "")))
                .map(|(k, v)| (decode(k.replace('+', " ")), decode(v.replace('+', " "))))
                .collect(),
        )
    }

    /// Empty counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|v| !v.is_empty())
    }

    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some("true" | "1"))
    }
}

fn decode(text: impl AsRef<str>) -> String {
    let bytes = text.as_ref().as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                out.push(byte);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_resources() {
        let t = Target::parse("/apis/apps/v1/namespaces/shop/deployments/api/scale").unwrap();
        assert_eq!((t.group.as_str(), t.version.as_str(), t.plural.as_str()), ("apps", "v1", "deployments"));
        assert_eq!(t.namespace.as_deref(), Some("shop"));
        assert_eq!((t.name.as_deref(), t.subresource.as_deref()), (Some("api"), Some("scale")));
        let t = Target::parse("/api/v1/namespaces/shop").unwrap();
        assert_eq!((t.plural.as_str(), t.namespace, t.name.as_deref()), ("namespaces", None, Some("shop")));
        let t = Target::parse("/api/v1/namespaces/shop/finalize").unwrap();
        assert_eq!((t.plural.as_str(), t.subresource.as_deref()), ("namespaces", Some("finalize")));
        assert_eq!(Target::parse("/apis/apps/v1"), None);
    }

    #[test]
    fn queries_are_decoded() {
        let q = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1&limit=");
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(q.flag("watch"));
        assert_eq!(q.get("limit"), None);
    }
}
