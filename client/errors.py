"""What can go wrong for a caller; each knows the command line's exit code.

AppError
    ApiRefused          3   the API answered 4xx; `problem` says why
    JobFailed           1   the job ended failed or cancelled; `problem` says why
    WaitTimeout         4   the job is still alive, the caller's patience is not
    ServiceUnreachable 69   nothing answers at the address, or not in a way this client understands
"""

from shared.errors import AppError

from .models import Job, Problem


class ApiRefused(AppError):
    exit_code = 3

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem
        self.status, self.title = problem.status, problem.title


class JobFailed(AppError):
    exit_code = 1

    def __init__(self, job: Job) -> None:
        super().__init__(f"{job.id} ended {job.state}: {job.problem.text}")
        self.job = job
        self.problem = job.problem


class WaitTimeout(AppError):
    exit_code = 4


class ServiceUnreachable(AppError):
    status, code, title, exit_code = 503, "unavailable", "The service cannot be reached", 69
