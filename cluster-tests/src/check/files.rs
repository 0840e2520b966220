//! Judges the files of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::error::CheckError;
use super::finding::Origin;
use super::options::CheckOptions;
use super::report::Report;
use super::{Checker, Source};
use crate::history::{HistoryError, HistoryReader};

/// Judges the history in these files, and in the `.jsonl` files of these folders.
///
/// # Errors
/// When there is none, a file cannot be read, or it cannot be judged.
pub fn check_files(paths: &[PathBuf], options: CheckOptions) -> Result<Report, CheckError> {
    let files = files_of(paths)?;
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let mut checker = Checker::new(options);
    for (file, name) in files.iter().zip(&names) {
        let source = checker.add_source(name)?;
        take(&mut checker, source, file)?;
    }
    let mut report = checker.finish()?;
    let wanted: BTreeSet<Origin> = report.evidence().map(|evidence| evidence.origin).collect();
    report.attach(&names, &records(&files, &wanted)?);
    Ok(report)
}

fn take(checker: &mut Checker, source: Source, file: &Path) -> Result<(), CheckError> {
    let mut reader = HistoryReader::open(file)?;
    while let Some(line) = reader.next_record()? {
        checker.add(source, &line.record)?;
    }
    if reader.is_cut() {
        checker.note_cut();
    }
    Ok(())
}

/// The files, each once, by name: what is found is told in the same words however they were given.
fn files_of(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CheckError> {
    let mut files = BTreeSet::new();
    for path in paths {
        if !path.is_dir() {
            if !path.exists() {
                return Err(CheckError::Nothing { path: path.clone() });
            }
            files.insert(path.clone());
            continue;
        }
        let error = |error| HistoryError::Io { path: path.clone(), error };
        let before = files.len();
        for file in fs::read_dir(path).map_err(error)? {
            let file = file.map_err(error)?.path();
            if file.extension().is_some_and(|extension| extension == "jsonl") {
                files.insert(file);
            }
        }
        if files.len() == before {
            return Err(CheckError::Nothing { path: path.clone() });
        }
    }
    match paths.first() {
        None => Err(CheckError::Nothing { path: PathBuf::new() }),
        Some(_) => Ok(files.into_iter().collect()),
    }
}

/// The records that show something, as they were written. They are few, so that the files are read once more.
fn records(files: &[PathBuf], wanted: &BTreeSet<Origin>) -> Result<BTreeMap<Origin, String>, CheckError> {
    let mut records = BTreeMap::new();
    for (source, file) in (0..).zip(files) {
        let of_file = Origin { source, line: 0 }..=Origin { source, line: u64::MAX };
        let Some(last) = wanted.range(of_file).next_back() else { continue };
        let mut reader = HistoryReader::open(file)?;
        while let Some((line, text)) = reader.next_text()? {
            let origin = Origin { source, line };
            if wanted.contains(&origin) {
                records.insert(origin, text);
            }
            if origin >= *last {
                break;
            }
        }
    }
    Ok(records)
}
