//! Prometheus' text format, read strictly.

use std::collections::BTreeMap;

/// Samples by name and labels, written as the exposition writes them.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads an exposition.
    ///
    /// # Errors
    /// The line that breaks the format, and how: a sample without help or type, twice, or not a number; a counter
    /// without `_total`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut samples = BTreeMap::new();
        let (mut helped, mut typed) = ("", ("", ""));
        for line in text.lines().filter(|line| !line.is_empty()) {
            let fail = |why: &str| Err(format!("{why}: {line:?}"));
            if let Some(help) = line.strip_prefix("# HELP ") {
                helped = help.split_once(' ').map_or("", |(name, _)| name);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                typed = kind.split_once(' ').unwrap_or_default();
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap_or_default();
                let name = sample.split_once('{').map_or(sample, |(name, _)| name);
                let Ok(value) = value.parse() else { return fail("no number") };
                if helped != name {
                    return fail("no help before it");
                }
                match typed {
                    (of, "counter") if of == name && name.ends_with("_total") => {}
                    (of, "gauge") if of == name && !name.ends_with("_total") => {}
                    _ => return fail("no fitting type before it"),
                }
                if samples.insert(sample.to_owned(), value).is_some() {
                    return fail("twice");
                }
            }
        }
        Ok(Self(samples))
    }

    /// A sample.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposition_is_read() {
        let text = "# HELP a_total Words.\n# TYPE a_total counter\na_total{of=\"x y\"} 3\na_total{of=\"z\"} 4\n\n\
                    # HELP b Words.\n# TYPE b gauge\nb 0.5\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!((metrics.get("a_total{of=\"x y\"}"), metrics.get("a_total{of=\"z\"}")), (3.0, 4.0));
        assert_eq!(metrics.get("b").to_string(), "0.5");
    }

    #[test]
    fn broken_exposition_is_refused() {
        for text in [
            "a 1",
            "# HELP a Words.\na 1",
            "# HELP a Words.\n# TYPE a counter\na 1",
            "# HELP a Words.\n# TYPE a gauge\na x",
            "# HELP a Words.\n# TYPE a gauge\na 1\na 1",
        ] {
            assert!(Metrics::parse(text).is_err(), "{text}");
        }
    }
}
