//! A device in memory, for tests and small decoded things.

use std::sync::RwLock;

use super::{BlockDevice, check_inside};
use crate::error::{Error, Result};

/// Bytes in memory.
#[derive(Debug, Default)]
pub struct Memory(RwLock<Vec<u8>>);

impl Memory {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(RwLock::new(bytes))
    }

    /// A copy of the bytes as they are now.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.read().map(|bytes| bytes.clone()).unwrap_or_default()
    }
}

fn poisoned<T>(_: T) -> Error {
    Error::internal("memory device: lock poisoned")
}

impl BlockDevice for Memory {
    fn len(&self) -> u64 {
        self.0
            .read()
            .map(|bytes| bytes.len() as u64)
            .unwrap_or_default()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bytes = self.0.read().map_err(poisoned)?;
        check_inside("memory device", offset, buf.len(), bytes.len() as u64)?;
        let start = offset as usize;
        buf.copy_from_slice(&bytes[start..start + buf.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, new: &[u8]) -> Result<()> {
        let mut bytes = self.0.write().map_err(poisoned)?;
        check_inside("memory device", offset, new.len(), bytes.len() as u64)?;
        let start = offset as usize;
        bytes[start..start + new.len()].copy_from_slice(new);
        Ok(())
    }

    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        let len = usize::try_from(len).map_err(|_| Error::limit("memory device: zero range"))?;
        self.write_at(offset, &vec![0; len])
    }
}
