//! Clusters of control planes in one process.
