//! What both programs of comparisons share: the C ABI, our side of it, pairs and the table.

pub mod abi;
pub mod hub;
pub mod pairs;
pub mod report;
