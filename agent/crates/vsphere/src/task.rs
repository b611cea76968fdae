//! Tasks: what the server says of one, and asking it to stop. Waiting is in `wait`. Source: vSphere API 8.0, TaskInfo.

use crate::client::Client;
use crate::error::{Error, ErrorKind};
use crate::fault::Fault;
use crate::moref::MoRef;
use crate::property::Properties;
use crate::soap::{Effect, Request};
use crate::wait;
use crate::xml::{Node, Shape};

/// State of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Not started: it may still start long after.
    Queued,
    /// Running.
    Running,
    /// Done.
    Success,
    /// Failed; the fault is in [`TaskInfo::error`].
    Error,
}

impl TaskState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, TaskState::Success | TaskState::Error)
    }

    pub(crate) fn parse(text: &str) -> Option<TaskState> {
        Some(match text {
            "queued" => TaskState::Queued,
            "running" => TaskState::Running,
            "success" => TaskState::Success,
            "error" => TaskState::Error,
            _ => return None,
        })
    }
}

/// What a task produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskResult {
    /// An object, for example a snapshot.
    MoRef(MoRef),
    /// Anything else.
    Other {
        /// VMware's type name.
        type_name: String,
        /// Its text, when it is a plain value.
        text: String,
    },
}

/// A task at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskInfo {
    /// The task.
    pub moref: MoRef,
    /// State.
    pub state: TaskState,
    /// Percent, while running.
    pub progress: Option<i32>,
    /// Result of a success that has one.
    pub result: Option<TaskResult>,
    /// Fault of a failure.
    pub error: Option<Fault>,
    /// The object that it works on.
    pub entity: Option<MoRef>,
    /// For example `VirtualMachine.reconfigure`.
    pub description_id: String,
    /// Queued at, by the server's clock.
    pub queue_time: Option<jiff::Timestamp>,
    /// Started at.
    pub start_time: Option<jiff::Timestamp>,
    /// Ended at.
    pub complete_time: Option<jiff::Timestamp>,
    /// Whether it can be cancelled now.
    pub cancelable: bool,
    /// Whether someone cancelled it.
    pub cancelled: bool,
}

impl Client {
    /// Reads a task.
    ///
    /// # Errors
    /// `TaskGone` when the server no longer knows it.
    pub async fn task(&self, task: &MoRef) -> Result<TaskInfo, Error> {
        info_of(self.properties(task, &["info"]).await.map_err(|e| gone(e, task))?)
    }

    /// Reads many tasks in as few calls as the server's pages allow; one that the server has forgotten is left out.
    ///
    /// # Errors
    /// A task that the server does not show is an error, never an ended one.
    pub async fn tasks(&self, tasks: &[MoRef]) -> Result<Vec<TaskInfo>, Error> {
        let all = self.properties_of(tasks, &["info"]).await?;
        let mut told = all.into_iter().map(info_of).collect::<Result<Vec<_>, _>>()?;
        for task in tasks {
            if told.iter().any(|info| info.moref.value == task.value) {
                continue;
            }
            // Silence about a task is no end of it.
            match self.task(task).await {
                Ok(info) => told.push(info),
                Err(e) if *e.kind() == ErrorKind::TaskGone => {}
                Err(e) => return Err(e),
            }
        }
        Ok(told)
    }

    /// Asks the server to stop a task. A reconfigure is not cancelable once it runs.
    pub async fn cancel_task(&self, task: &MoRef) -> Result<(), Error> {
        let request = Request::new("CancelTask", Effect::Mutation, task, |_| {});
        self.session.call(&request, self.session.timeout).await.map(drop).map_err(|e| gone(e, task))
    }
}

/// Turns "object not found" for the task itself into `TaskGone`.
pub(crate) fn gone(error: Error, task: &MoRef) -> Error {
    wait::gone(error, task, ErrorKind::TaskGone)
}

fn info_of(props: Properties) -> Result<TaskInfo, Error> {
    let (op, task) = ("RetrievePropertiesEx", &props.object);
    match (props.get("info"), props.missing.first()) {
        (Some(info), _) => task_info(info, task).map_err(|e| Error::shape(op, e)),
        (None, Some(refused)) => Err(Error::fault_of(op, refused.fault.clone())),
        (None, None) => Err(Error::protocol(op, format!("{task} has no info"))),
    }
}

fn task_info(node: &Node, task: &MoRef) -> Result<TaskInfo, Shape> {
    let state = node.need::<String>("state")?;
    let state = TaskState::parse(&state).ok_or_else(|| Shape(format!("{task}: unknown task state")))?;
    Ok(TaskInfo {
        moref: task.clone(),
        state,
        progress: node.opt("progress")?,
        result: node.child("result").map(task_result),
        error: node.child("error").map(Fault::from_localized),
        entity: node.opt_ref("entity")?,
        description_id: node.string("descriptionId").unwrap_or_default(),
        queue_time: node.opt_time("queueTime")?,
        start_time: node.opt_time("startTime")?,
        complete_time: node.opt_time("completeTime")?,
        cancelable: node.flag("cancelable")?.unwrap_or(false),
        cancelled: node.flag("cancelled")?.unwrap_or(false),
    })
}

fn task_result(node: &Node) -> TaskResult {
    match node.moref() {
        Ok(moref) => TaskResult::MoRef(moref),
        Err(_) => TaskResult::Other { type_name: node.type_name().to_owned(), text: node.text.clone() },
    }
}
