"""nbgrader's view of the course: solutions/<unit>/ is the source of an assignment, exercises/<unit>/ its release."""

c = get_config()

c.CourseDirectory.course_id = "attncourse"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
