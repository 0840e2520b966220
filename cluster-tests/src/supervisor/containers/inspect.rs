//! What `docker inspect` says of a container, as far as it matters.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::HarnessError;

/// A container.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub(super) state: State,
    network_settings: NetworkSettings,
}

/// Whether it runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    /// Also while it is paused.
    pub(super) running: bool,
    /// As this machine's kernel counts. 0: it does not run.
    pub(super) pid: u32,
    /// Of its last process. 128 and a signal's number, if that ended it.
    pub(super) exit_code: i32,
    /// When its last process began, as `docker logs --since` takes it.
    pub(super) started_at: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    networks: BTreeMap<String, Endpoint>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    aliases: Option<Vec<String>>,
}

/// How a container is attached to its network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attachment {
    pub(super) network: String,
    /// Its names there, but the one that Docker gives it anyway.
    pub(super) aliases: Vec<String>,
}

impl Inspected {
    /// From what `docker inspect` says of one container.
    ///
    /// # Errors
    /// When that is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, HarnessError> {
        let asked = "docker inspect";
        let all: Vec<Self> = serde_json::from_str(text).map_err(|error| HarnessError::answer(asked, error))?;
        all.into_iter().next().ok_or_else(|| HarnessError::answer(asked, "no container"))
    }

    /// How the container of this id is attached to its only network.
    ///
    /// # Errors
    /// When it has none, or several.
    pub(super) fn attachment(&self, id: &str) -> Result<Attachment, HarnessError> {
        let mut networks = self.network_settings.networks.iter();
        let (Some((network, endpoint)), None) = (networks.next(), networks.next()) else {
            let words = format!("{} networks in place of one", self.network_settings.networks.len());
            return Err(HarnessError::answer("docker inspect", words));
        };
        let aliases = endpoint.aliases.iter().flatten().filter(|alias| !id.starts_with(alias.as_str()));
        Ok(Attachment { network: network.clone(), aliases: aliases.cloned().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = r#"[{"Id": "0100feefb8f36929", "State": {"Status": "running", "Running": true, "Paused": false,
        "Pid": 17223, "ExitCode": 0, "Error": "", "StartedAt": "2026-11-30T09:36:23.894419449Z"},
        "NetworkSettings": {"Bridge": "", "Networks": {"x_default": {"IPAMConfig": {}, "Links": null,
        "Aliases": ["n1.localhost", "n1", "0100feefb8f3"], "IPAddress": "172.18.0.2"}}}}]"#;

    #[test]
    fn running_container_has_a_pid_and_its_names() {
        let inspected = Inspected::parse(RUNNING).unwrap();
        assert!(inspected.state.running);
        assert_eq!((inspected.state.pid, inspected.state.exit_code), (17_223, 0));
        assert_eq!(inspected.state.started_at, "2026-11-30T09:36:23.894419449Z");
        let attachment = inspected.attachment("0100feefb8f36929").unwrap();
        let aliases = vec!["n1.localhost".to_owned(), "n1".to_owned()];
        assert_eq!(attachment, Attachment { network: "x_default".to_owned(), aliases });
    }

    #[test]
    fn cut_off_container_is_understood_and_has_no_network() {
        let text = r#"[{"State": {"Running": false, "Pid": 0, "ExitCode": 137, "StartedAt": ""},
            "NetworkSettings": {"Networks": {}}}]"#;
        let inspected = Inspected::parse(text).unwrap();
        assert_eq!(inspected.state.exit_code, 137);
        assert!(inspected.attachment("01").is_err());
    }

    #[test]
    fn answer_without_a_container_is_refused() {
        assert!(Inspected::parse("[]").is_err());
        assert!(Inspected::parse("Error: No such container").is_err());
    }
}
