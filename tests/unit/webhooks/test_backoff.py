from svd_service.webhooks.backoff import pause_after


def test_the_pause_grows_by_three_to_an_hour_and_varies(settings):
    for number, usual in enumerate((5, 15, 45, 135, 405, 1215, 3600, 3600), start=1):
        pauses = {pause_after(number, settings) for _ in range(20)}
        assert len(pauses) > 1
        assert all(0.75 * usual <= pause <= 1.25 * usual for pause in pauses)
    assert pause_after(10_000, settings) <= 4_500
