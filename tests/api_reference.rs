//! `docs/api.md` is made from the schemas of the CRDs: `make docs` writes it (`UPDATE=1 cargo test --test api_reference`), and without
//! that this test says whether it is still what the types say.

use std::{fs, path::Path};

use serde_json::{Map, Value};
use sluice::api;

const HEAD: &str = "# The API: `sluice.dev/v1alpha1`

Made from the types in `src/api` by `make docs`; do not edit. `kubectl explain rollouts.sluice.dev.spec` shows the same on a cluster.
What is not in a schema (conditions, events, annotations, metrics) is in [reference.md](reference.md), what it is all about in
[concepts.md](concepts.md).

In a field's path `[]` stands for an item of a list. Fields in **bold** must be set wherever the object around them is set. A rule is
checked by the API server when an object is written, and its message is what you then read. What no such rule can express is checked by the
controller: [InvalidSpec](troubleshooting.md#invalidspec).

Spans of time are written as whole numbers with the units `ms`, `s`, `m`, `h`, largest first (`30s`, `5m`, `1h30m`), at most `8784h`.
";

/// Objects that are parts of several kinds: they are described once. Known by their description.
const SHARED: [(&str, &str); 1] = [("One number that is measured, and what is expected of it.", "Metric")];

/// One table of fields, and the rules that were met on the way.
#[derive(Default)]
struct Page {
    rows: Vec<String>,
    rules: Vec<String>,
    shared: Vec<(&'static str, Value)>,
}

fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}

/// A bound as people write it: schemas hold every number as a float.
fn number(value: &Value) -> Option<String> {
    value.as_f64().map(|n| n.to_string())
}

fn range(from: Option<String>, to: Option<String>, unit: &str) -> Option<String> {
    Some(match (from, to) {
        (Some(from), Some(to)) => format!("{from} to {to}{unit}"),
        (Some(from), None) => format!("at least {from}{unit}"),
        (None, Some(to)) => format!("at most {to}{unit}"),
        (None, None) => return None,
    })
}

/// A span of time: what its rules say stands at the head of the page, once.
fn is_span(schema: &Value) -> bool {
    let rules = schema["x-kubernetes-validations"].as_array();
    rules.is_some_and(|rules| rules.iter().any(|rule| text(rule, "message") == api::quantity::SPAN_RULES[0].1))
}

/// Type, range and default of a field.
fn kind(schema: &Value) -> String {
    let bounds = |from: &str, to: &str, unit: &str| range(number(&schema[from]), number(&schema[to]), unit);
    let pattern = text(schema, "pattern");
    let mut parts = vec![];
    match text(schema, "type") {
        _ if schema["enum"].is_array() => {
            let values = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            parts.push(values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "));
        }
        "string" if is_span(schema) => parts.push("span of time".to_owned()),
        "string" if text(schema, "format") == "date-time" => parts.push("time (RFC 3339)".to_owned()),
        "string" => parts.extend(["string".to_owned()].into_iter().chain(bounds("minLength", "maxLength", " characters"))),
        "array" => {
            let of = text(&schema["items"], "type");
            parts.push(if of == "object" { "list".to_owned() } else { format!("list of {of}s") });
            parts.extend(bounds("minItems", "maxItems", " items"));
            let keys: Vec<String> = schema["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|key| format!("`{}`", key.as_str().unwrap()))
                .collect();
            if !keys.is_empty() {
                parts.push(format!("no two with the same {}", keys.join(" and ")));
            }
        }
        "object" if schema["additionalProperties"].is_object() => {
            parts.push(format!("map of names to {}s", text(&schema["additionalProperties"], "type")));
            parts.extend(range(None, number(&schema["maxProperties"]), " entries"));
        }
        "object" if schema["x-kubernetes-preserve-unknown-fields"] == true => parts.push("object, any fields".to_owned()),
        other => parts.extend([other.to_owned()].into_iter().chain(bounds("minimum", "maximum", ""))),
    }
    if !pattern.is_empty() {
        parts.push(format!("pattern `{pattern}`"));
    }
    match &schema["default"] {
        Value::Null => {}
        Value::String(word) if word.is_empty() => {}
        Value::Array(list) if list.is_empty() => {}
        Value::String(word) => parts.push(format!("default `{word}`")),
        other => parts.push(format!("default `{other}`")),
    }
    parts.join(", ")
}

impl Page {
    /// The fields below a schema, and the rules of the schema itself.
    fn walk(&mut self, path: &str, schema: &Value) {
        let shared = SHARED.iter().find(|(description, _)| text(schema, "description") == *description);
        if let Some((_, name)) = shared.filter(|_| !path.is_empty()) {
            self.shared.push((name, schema.clone()));
            self.rows.push(format!("| `{path}` | object | See [{name}](#{}). |", name.to_lowercase()));
            return;
        }
        self.rules(path, schema);
        let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let empty = Map::new();
        for (name, field) in schema["properties"].as_object().unwrap_or(&empty) {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            self.field(&below, field, required.contains(&name.as_str()));
        }
    }

    fn field(&mut self, path: &str, schema: &Value, required: bool) {
        let name = if required { format!("**`{path}`**") } else { format!("`{path}`") };
        self.rows.push(format!("| {name} | {} | {} |", cell(&kind(schema)), cell(text(schema, "description"))));
        match text(schema, "type") {
            "array" => {
                self.rules(path, schema);
                self.walk(&format!("{path}[]"), &schema["items"]);
            }
            "object" => self.walk(path, schema),
            _ if is_span(schema) => {}
            _ => self.rules(path, schema),
        }
    }

    fn rules(&mut self, path: &str, schema: &Value) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let at = if path.is_empty() { "(the whole)".to_owned() } else { format!("`{path}`") };
            self.rules.push(format!("| {at} | {} | `{}` |", cell(text(rule, "message")), cell(text(rule, "rule"))));
        }
    }

    fn write(self, out: &mut String) -> Vec<(&'static str, Value)> {
        *out += "\n| field | type | |\n|---|---|---|\n";
        *out += &(self.rows.join("\n") + "\n");
        if !self.rules.is_empty() {
            *out += "\nRules:\n\n| at | message | expression (CEL) |\n|---|---|---|\n";
            *out += &(self.rules.join("\n") + "\n");
        }
        self.shared
    }
}

fn reference() -> String {
    let mut out = HEAD.to_owned();
    let mut shared: Vec<(&'static str, Value)> = vec![];
    for crd in api::crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let (names, version) = (&crd["spec"]["names"], &crd["spec"]["versions"][0]);
        let (kind, schema) = (text(names, "kind"), &version["schema"]["openAPIV3Schema"]);
        let short = names["shortNames"][0].as_str().unwrap();
        let about = text(schema, "description");
        let scope = if text(&crd["spec"], "scope") == "Cluster" { "cluster-scoped" } else { "namespaced" };
        let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
        let columns: Vec<String> = columns.map(|column| format!("`{}` (`{}`)", text(column, "name"), text(column, "jsonPath"))).collect();
        out += &format!("\n## {kind}\n\n{about}\n\n`kubectl get {}.{}` (short: `{short}`; {scope})", text(names, "plural"), api::GROUP);
        out += &format!(" shows {}.\n", columns.join(", "));
        let mut whole = Page::default();
        whole.rules("", schema);
        if !whole.rules.is_empty() {
            out += "\nRules:\n\n| at | message | expression (CEL) |\n|---|---|---|\n";
            out += &(whole.rules.join("\n") + "\n");
        }
        for part in ["spec", "status"] {
            if schema["properties"][part].is_object() {
                out += &format!("\n### {kind}.{part}\n");
                let mut page = Page::default();
                page.walk("", &schema["properties"][part]);
                shared.extend(page.write(&mut out));
            }
        }
    }
    for (_, name) in SHARED {
        let mut met = shared.iter().filter(|(known, _)| *known == name).map(|(_, schema)| schema);
        let schema = met.next().unwrap_or_else(|| panic!("no kind has a {name}"));
        assert!(met.all(|other| other == schema), "{name} is not the same everywhere");
        out += &format!("\n## {name}\n\n{}\n", text(schema, "description"));
        let mut page = Page::default();
        page.walk("", schema);
        page.write(&mut out);
    }
    out
}

#[test]
fn the_reference_of_the_api_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md");
    let reference = reference();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &reference).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differ = written.lines().zip(reference.lines()).find(|(old, new)| old != new);
    assert!(written == reference, "docs/api.md is not what src/api says: run `make docs`. First difference: {differ:?}");
}
