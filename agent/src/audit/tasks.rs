//! Which of vCenter's tasks a step was: the adapter notes each that it waits for, whoever asked for the step collects them. Steps of
//! others run beside it, so the notes belong to the task of the runtime that takes the step.
use std::cell::RefCell;

tokio::task_local! {
    static TASKS: RefCell<Vec<String>>;
}

/// What a step gives, and the tasks that were waited for meanwhile.
pub async fn of<T>(step: impl Future<Output = T>) -> (T, Vec<String>) {
    TASKS
        .scope(RefCell::default(), async move {
            let given = step.await;
            (given, TASKS.with(RefCell::take))
        })
        .await
}

/// This step has begun a task. Outside of [`of`] nobody asks.
pub fn note_task(task: &str) {
    let note = |tasks: &RefCell<Vec<String>>| tasks.borrow_mut().push(task.to_owned());
    TASKS.try_with(note).ok();
}
