//! The resume token: the opaque form in which a client keeps its positions.
//!
//! Layout: `BRT`, one byte of version, an encoded `Resume` message, and the CRC-32 of all before it in four bytes, low
//! byte first. The checksum catches a token that was cut or altered on its way through a file or a database; the
//! cluster id inside catches one of another cluster. Neither is a secret.

use prost::Message as _;
use thiserror::Error;

use crate::id::ClusterId;
use crate::v1::Resume;

const MAGIC: &[u8; 3] = b"BRT";
const VERSION: u8 = 1;
const CRC_LEN: usize = 4;

/// Why bytes are not a resume token. Nothing can be resumed from them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TokenError {
    /// It does not begin as a token does.
    #[error("not a resume token")]
    Magic,
    /// Written by another version.
    #[error("resume token of version {0}; this is version {VERSION}")]
    Version(u8),
    /// Cut or altered.
    #[error("damaged resume token: its checksum does not match")]
    Checksum,
    /// The checksum matches but the content is not a position: no cluster id of 16 bytes, or not protobuf.
    #[error("resume token without a valid position")]
    Content,
}

/// The token for a position.
#[must_use]
pub fn encode_token(resume: &Resume) -> Vec<u8> {
    let mut token = Vec::with_capacity(MAGIC.len() + 1 + resume.encoded_len() + CRC_LEN);
    token.extend_from_slice(MAGIC);
    token.push(VERSION);
    resume.encode_raw(&mut token);
    let crc = crc32fast::hash(&token);
    token.extend_from_slice(&crc.to_le_bytes());
    token
}

/// The position a token stands for.
///
/// # Errors
/// See [`TokenError`].
pub fn decode_token(token: &[u8]) -> Result<Resume, TokenError> {
    let rest = token.strip_prefix(MAGIC).ok_or(TokenError::Magic)?;
    let (&version, rest) = rest.split_first().ok_or(TokenError::Magic)?;
    if version != VERSION {
        return Err(TokenError::Version(version));
    }
    let (content, crc) = rest.split_last_chunk::<CRC_LEN>().ok_or(TokenError::Checksum)?;
    let signed = token.len() - CRC_LEN;
    if crc32fast::hash(token.get(..signed).unwrap_or_default()) != u32::from_le_bytes(*crc) {
        return Err(TokenError::Checksum);
    }
    let resume = Resume::decode(content).map_err(|_| TokenError::Content)?;
    ClusterId::from_bytes(&resume.cluster_id).ok_or(TokenError::Content)?;
    Ok(resume)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Cursor;

    fn token() -> Vec<u8> {
        let cursors = vec![Cursor { vbucket: 7, lineage: 1, epoch: 2, offset: 300 }];
        encode_token(&Resume { cluster_id: vec![9; 16].into(), cursors })
    }

    #[test]
    fn token_round_trips() {
        let resume = decode_token(&token()).unwrap();
        assert_eq!(encode_token(&resume), token());
    }

    #[test]
    fn every_truncation_is_refused() {
        let token = token();
        for len in 0..token.len() {
            assert!(decode_token(&token[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let token = token();
        for bit in 0..token.len() * 8 {
            let mut bad = token.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_token(&bad).is_err(), "bit {bit}");
        }
    }
}
