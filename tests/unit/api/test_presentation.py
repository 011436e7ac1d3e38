from svd_service.parameters import Format
from svd_service.presentation import result_path


def test_the_path_of_a_result_is_a_route(app):
    for kind in Format:
        endpoint, arguments = app.url_map.bind("").match(result_path("an-id", kind))
        assert (endpoint, arguments) == ("native.result_file", {"task_id": "an-id", "format": kind})
