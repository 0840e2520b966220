//! Pushes a million messages without waiting for each, and counts the outcomes.

use std::time::Instant;

use broky_client::{Client, MessageRef};

const MESSAGES: u64 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(["127.0.0.1:7400"]).await?;
    let producer = client.producer()?;
    let start = Instant::now();
    for number in 0..MESSAGES {
        producer.push_detached(MessageRef::new(b"numbers", &number.to_le_bytes())).await?;
    }
    let summary = producer.close().await;
    println!("{summary:?} in {:?}", start.elapsed());
    Ok(())
}
