//! Documents from files, directories and standard input.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::report::{Report, Subject};
use crate::cli::error::Error;

/// A document, and where it begins.
#[derive(Clone, Debug)]
pub struct Document {
    pub file: String,
    pub line: usize,
    pub object: Value,
}

/// All documents of these files. What cannot be read as YAML or JSON is a problem of its file; a file that is not there is an error.
pub fn read(paths: &[PathBuf], stdin: &mut dyn Read, report: &mut Report) -> Result<Vec<Document>, Error> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            stdin.read_to_string(&mut text).map_err(|error| unreadable(path, &error))?;
            documents.extend(split("standard input", &text, report));
            continue;
        }
        let files = if path.is_dir() { below(path)? } else { vec![path.clone()] };
        if files.is_empty() {
            return Err(Error::Pointless(format!("{} holds no file that ends in .yaml, .yml or .json", path.display())));
        }
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
            documents.extend(split(&file.display().to_string(), &text, report));
        }
    }
    Ok(documents)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Pointless(format!("cannot read {}: {error}", path.display()))
}

/// The manifests in a directory and below it, by name. Links are not followed: they may lead in a circle.
fn below(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries =
        std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(|error| unreadable(directory, &error))?;
    let mut paths: Vec<PathBuf> =
        entries.into_iter().filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_symlink())).map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(below(&path)?);
        } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            files.push(path);
        }
    }
    Ok(files)
}

/// The documents of one text; the items of a list are documents of their own.
pub fn split(name: &str, text: &str, report: &mut Report) -> Vec<Document> {
    let mut documents = Vec::new();
    for (begin, part) in parts(text) {
        let line = begin + first_line(&part);
        let document = |object| Document { file: name.to_owned(), line, object };
        // Empty lines before it, so that an error names the line of the file.
        match serde_yaml_ng::from_str::<Value>(&("\n".repeat(begin - 1) + &part)) {
            Ok(Value::Null) => {}
            Ok(object) if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && object["items"].is_array() => {
                let items = object["items"].as_array().cloned().unwrap_or_default();
                documents.extend(items.into_iter().map(document));
            }
            Ok(object) => documents.push(document(object)),
            Err(error) => {
                let mend = "write one Kubernetes object for each document; a template of Helm must be rendered first (helm template ... | kubectl sluice lint -f -)";
                report.problem(
                    &Subject { file: name.to_owned(), line, object: String::new() },
                    "",
                    format!("this is no YAML: {error}"),
                    Some(mend.into()),
                );
            }
        }
    }
    documents
}

/// The parts between `---`, with the number of the line at which each begins (from 1).
fn parts(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (i, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") || line.starts_with("---\t") {
            parts.push((i + 2, String::new()));
        } else if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts
}

/// How many lines of comments and empty lines stand before the document itself.
fn first_line(part: &str) -> usize {
    part.lines().position(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')).unwrap_or(0)
}
