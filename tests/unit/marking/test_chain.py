import stat
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat

from svd_service.config import ConfigurationError
from svd_service.marking import chain as chains
from svd_service.marking.chain import Chain
from svd_service.marking.signer import Signer
from tests.unit.marking.authorities import Authority, key_pem


def test_a_new_chain_can_be_used_and_read_back(chain):
    chain.check()
    assert Chain.from_pem(chain.pem) == chain
    assert (chain.algorithm, chain.is_own, len(chain.fingerprint)) == ("es256", True, 64)
    assert chain.common_name.startswith("svd-service ")
    assert chains.make().fingerprint != chain.fingerprint


def test_the_stored_chain_is_readable_only_by_its_user(tmp_path, chain):
    assert chains.stored(tmp_path) is None
    chains.store(tmp_path, chain)
    assert chains.stored(tmp_path) == chain
    (file,) = (tmp_path / ".c2pa").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_processes_that_store_concurrently_leave_one_complete_chain(tmp_path, chain):
    other = chains.make()
    threads = [threading.Thread(target=chains.store, args=(tmp_path, each)) for each in (chain, other) * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chains.stored(tmp_path) in {chain, other}
    assert len(list((tmp_path / ".c2pa").iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA"])
def test_a_damaged_file_counts_as_missing(tmp_path, chain, content):
    chains.store(tmp_path, chain)
    (tmp_path / ".c2pa" / "chain.pem").write_bytes(content)
    assert chains.stored(tmp_path) is None


@pytest.fixture
def files(tmp_path, chain):
    (tmp_path / "cert.pem").write_bytes(chain.certificates)
    (tmp_path / "key.pem").write_bytes(chain.key)
    return {"SVD_C2PA_CERT_FILE": tmp_path / "cert.pem", "SVD_C2PA_KEY_FILE": tmp_path / "key.pem"}


def test_an_operators_chain_is_read_from_its_files(make_settings, files, chain):
    found = chains.configured(make_settings(**files))
    assert found is not None
    assert (found.fingerprint, found.is_own) == (chain.fingerprint, False)
    assert chains.configured(make_settings()) is None


@pytest.mark.parametrize(
    "make_key",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
    ],
)
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(
    "written",
    [
        lambda pem: b"\xef\xbb\xbf" + pem,
        lambda pem: pem.replace(b"\n", b"\r\n"),
        lambda pem: b"Bag Attributes\n  friendlyName: M\xfcller\n" + pem.rstrip(),
    ],
    ids=["byte order mark", "CRLF", "other text"],
)
def test_an_operators_files_may_be_of_any_usual_form(make_settings, files, make_key, form, written):
    authority, key = Authority(), make_key()
    files["SVD_C2PA_KEY_FILE"].write_bytes(written(key_pem(key, form)))
    files["SVD_C2PA_CERT_FILE"].write_bytes(written(authority.certificate(key)) + authority.root)
    found = chains.configured(make_settings(**files))
    assert found is not None
    assert found.common_name == "An operator"
    Signer(found).try_out()


def test_a_certificate_needs_its_key_setting(make_settings, files):
    with pytest.raises(ConfigurationError, match="SVD_C2PA_CERT_FILE and SVD_C2PA_KEY_FILE belong together"):
        make_settings(SVD_C2PA_CERT_FILE=files["SVD_C2PA_CERT_FILE"])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("key.pem", b"nonsense", "SVD_C2PA_CERT_FILE"),
        ("cert.pem", b"nonsense", "SVD_C2PA_CERT_FILE"),
        ("key.pem", key_pem(ec.generate_private_key(ec.SECP256R1())), "not that of the key"),
        ("key.pem", key_pem(ec.generate_private_key(ec.SECP256K1())), "another kind"),
    ],
)
def test_files_that_cannot_sign_are_a_configuration_error(make_settings, files, tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=reason):
        chains.configured(make_settings(**files))


def test_a_missing_file_is_a_configuration_error(make_settings, files, tmp_path):
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ConfigurationError, match=r"No such file"):
        chains.configured(make_settings(**files))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "es384"),
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (rsa.generate_private_key(65537, 2048), "ps256"),
    ],
)
def test_the_algorithm_follows_from_the_key(chain, key, algorithm):
    assert Chain(key_pem(key), chain.certificates).algorithm == algorithm
