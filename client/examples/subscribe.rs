//! Prints what matches a pattern: `cargo run -p broky-client --example subscribe -- PATTERN`.

use broky_client::{Client, Event, SubscribeOptions};
use futures_util::StreamExt as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pattern = std::env::args().nth(1).unwrap_or_else(|| "*".to_owned());
    let client = Client::connect(["127.0.0.1:7400"]).await?;
    let mut subscription = client.subscribe(SubscribeOptions::new([pattern])).await?;
    while let Some(event) = subscription.next().await {
        match event? {
            Event::Message(message) => {
                println!("{}: {}", message.key().escape_ascii(), message.payload().escape_ascii());
            }
            Event::Gap(gap) => eprintln!("up to {} messages missed: {gap:?}", gap.to.since(gap.from)),
        }
    }
    Ok(())
}
