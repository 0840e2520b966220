//! Reads ten batches and keeps the position in a file; run again, it goes on there.

use broky_client::{Client, ResumeToken, Start, SubscribeError, SubscribeOptions};

const FILE: &str = "position.brt";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let start = match std::fs::read(FILE) {
        Ok(bytes) => Start::Resume(ResumeToken::from_bytes(bytes)?),
        Err(_) => Start::Earliest,
    };
    let client = Client::connect(["127.0.0.1:7400"]).await?;
    let options = SubscribeOptions::new(["*"]);
    let mut subscription = match client.subscribe(options.clone().start(start)).await {
        Err(SubscribeError::ForeignCluster(reason)) => {
            eprintln!("{reason}; starting over with what there is");
            client.subscribe(options.start(Start::Earliest)).await?
        }
        opened => opened?,
    };
    for _ in 0..10 {
        let Some(batch) = subscription.next_batch().await.transpose()? else { break };
        println!("{} messages, {} gaps", batch.len(), batch.gaps().len());
        // Kept after the batch was dealt with: what is dealt with twice after a crash is this batch at the most.
        if let Some(token) = subscription.resume_token() {
            std::fs::write(FILE, token.as_bytes())?;
        }
    }
    Ok(())
}
