//! Founding, and the number of copies.

use std::num::NonZeroU16;

use broky_proto::id::{ClusterId, Lineage, VBucketCount};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ClusterState;
use crate::command::Effect;
use crate::map::{ClusterMap, VBucket};
use crate::member::Copies;

/// Why a cluster was not founded. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum FoundRefusal {
    /// It has been. Join it, or, if it is not yours, do not talk to it.
    #[error("cluster {cluster} exists")]
    Founded {
        /// Which cluster this is.
        cluster: ClusterId,
    },
    /// The numbers of copies are out of range. Correct them.
    #[error("{0:?} is out of range")]
    Copies(Copies),
}

/// Why the number of copies was not changed. Nothing changed; correct it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[error("{0:?} is out of range")]
pub struct ConfigureRefusal(pub Copies);

impl ClusterState {
    pub(super) fn found(
        &mut self,
        cluster: ClusterId,
        vbuckets: VBucketCount,
        shards: NonZeroU16,
        copies: Copies,
        expect: u16,
    ) -> Result<(), FoundRefusal> {
        if self.is_founded() {
            return Err(FoundRefusal::Founded { cluster: self.map.cluster });
        }
        if !copies.is_valid() {
            return Err(FoundRefusal::Copies(copies));
        }
        let version = self.version();
        let empty = VBucket { version, min_isr: 1, lineage_end: Lineage(1), ..VBucket::default() };
        let vbuckets = vec![empty; vbuckets.len()];
        self.map = ClusterMap { cluster, version, copies, vbuckets, shards: Some(shards), ..ClusterMap::default() };
        self.expect = expect;
        Ok(())
    }

    pub(super) fn configure(&mut self, copies: Copies) -> Result<Effect, ConfigureRefusal> {
        if !copies.is_valid() {
            return Err(ConfigureRefusal(copies));
        }
        if copies == self.map.copies {
            return Ok(Effect::Unchanged);
        }
        self.map.copies = copies;
        self.map.version = self.version();
        let min_isr = self.goal().min_isr;
        // Who asks for more copies to be held means from now on, as far as there are replicas to hold them.
        self.edit_all(|vbucket| {
            let replicas = u8::try_from(vbucket.replicas.len()).unwrap_or(u8::MAX);
            vbucket.min_isr = vbucket.min_isr.max(min_isr.min(replicas));
        });
        Ok(Effect::Changed)
    }
}
