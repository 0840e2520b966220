//! Pushes one message and prints where it was stored: `cargo run -p broky-client --example push -- KEY PAYLOAD`.

use broky_client::{Client, Message, ProducerOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let key = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    let payload = arguments.next().unwrap_or_else(|| "hello".to_owned());

    let client = Client::connect(["127.0.0.1:7400"]).await?;
    let producer = client.producer_with(ProducerOptions { want_positions: true, ..ProducerOptions::default() })?;
    let receipt = producer.send(Message::new(key, payload).header("from", "example").with_uid()).await?;
    println!("stored at {:?}", receipt.position);
    client.close().await;
    Ok(())
}
