//! The CustomResourceDefinitions in `crds/`, and the chart's copy, are those of `src/api`.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

fn files(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

#[test]
fn the_crds_in_the_repository_and_in_the_chart_are_those_of_the_code() {
    let generated = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crds");
    if generated.exists() {
        fs::remove_dir_all(&generated).unwrap();
    }
    fs::create_dir_all(&generated).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_sluice")).args(["crds", "--out"]).arg(&generated).status().unwrap();
    assert!(status.success());
    let generated = files(&generated);
    assert_eq!(
        generated.keys().collect::<Vec<_>>(),
        ["analysisruns.yaml", "analysistemplates.yaml", "clusteranalysistemplates.yaml", "rolloutactions.yaml", "rollouts.yaml"],
    );
    for directory in ["crds", "charts/sluice/files/crds"] {
        let found = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory));
        let differ = found.keys().chain(generated.keys()).find(|name| found.get(*name) != generated.get(*name));
        assert_eq!(differ, None, "{directory} is not what src/api says: run `make crds`");
    }
}
