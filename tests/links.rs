//! Links of the documents lead somewhere: the file is there, and so is its heading.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// Markdown files of the repository, build products and hidden directories aside.
fn documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        if entry.is_dir() && name != "target" && !name.starts_with('.') {
            documents(&entry, found);
        } else if name.ends_with(".md") {
            found.push(entry);
        }
    }
}

/// The text without code: neither blocks nor spans hold links or headings.
fn prose(text: &str) -> String {
    let mut code = false;
    let is_prose = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    };
    text.lines().filter(is_prose).collect::<Vec<_>>().join("\n")
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for heading in prose(text).lines().filter(|line| line.starts_with('#')) {
        let title = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        let anchor: String = title.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
        let free = (0..).map(|n| if n == 0 { anchor.clone() } else { format!("{anchor}-{n}") }).find(|a| !anchors.contains(a));
        anchors.extend(free);
    }
    anchors
}

#[test]
fn links_in_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (link, span) = (Regex::new(r#"\]\(([^)\s]+)\)|(?:src|href)="([^"]+)""#).unwrap(), Regex::new("`[^`]*`").unwrap());
    let (mut files, mut checked, mut broken) = (vec![], 0, vec![]);
    documents(root, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let text = span.replace_all(&prose(&text), "").into_owned();
        for found in link.captures_iter(&text) {
            let target = found.get(1).or_else(|| found.get(2)).unwrap().as_str();
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            let holds = path.exists() && (anchor.is_empty() || anchors(&fs::read_to_string(&path).unwrap_or_default()).contains(anchor));
            if !holds {
                broken.push(format!("{}: {target}", file.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(checked > 10, "{checked} links were found");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}
