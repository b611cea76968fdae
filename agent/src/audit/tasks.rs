//! Which of vCenter's tasks a step was: the adapter notes each that it waits for, whoever asked for the step collects them. Steps of
//! others run beside it, so the notes belong to the task of the runtime that takes the step.
use std::{cell::RefCell, time::Instant};

tokio::task_local! {
    static TASKS: RefCell<Vec<Task>>;
}

/// A task of vCenter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub id: String,
    /// When the wait for it began.
    pub began: Instant,
}

/// What a step gives, and the tasks that were waited for meanwhile.
pub async fn of<T>(step: impl Future<Output = T>) -> (T, Vec<Task>) {
    TASKS
        .scope(RefCell::default(), async move {
            let given = step.await;
            (given, TASKS.with(RefCell::take))
        })
        .await
}

/// This step has begun a task. Outside of [`of`] nobody asks.
pub fn note_task(task: &str) {
    let task = Task { id: task.to_owned(), began: Instant::now() };
    let note = |tasks: &RefCell<Vec<Task>>| tasks.borrow_mut().push(task);
    TASKS.try_with(note).ok();
}
