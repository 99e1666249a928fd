"""The mutants of each row of the ledger: {beginning of its sentence: [(file, old, new), ...]}."""

from __future__ import annotations

RECIPES, CONFIG, SGD = "recipes.py", "config.py", "train/sgd.py"
PLAN, LAYERS, MODEL = "architecture.py", "layers.py", "model.py"
AUGMENT, PREPROCESS = "data/augment.py", "data/preprocess.py"
LOOP, EVALUATION, NORMALISE = "train/loop.py", "evaluation.py", "ops/normalise.py"

MEASURES, STATISTICS = "experiments/measures.py", "experiments/estimates.py"
ILSVRC = "data/sources/ilsvrc.py"

LINKED = (
    "linked: bool = False\n    "
    '"""Sees the maps of all columns instead of only those of its own."""\n    '
)

MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    # Section 2
    "The shorter side is rescaled": [
        ("data/image.py", "short = min(height, width)", "short = max(height, width)"),
        ("data/image.py", "(width - short) / 2, (height - short) / 2", "0, (height - short) / 2"),
        ("data/prepare.py", "STORED_PX = 256", "STORED_PX = 255"),
    ],
    "The mean activity over the training set": [
        (PREPROCESS, ".float() - mean", ".float() + mean"),
        (
            "data/pixel_sums.py",
            "self.pixels / max(1, self.images)",
            "self.pixels / (1 + self.images)",
        ),
        ("data/pixel_sums.py", "/ count - np.outer(mean, mean)", "/ count"),
    ],
    "original: the center crop of the mean": [
        (RECIPES, 'Augment(chunk=32, mean="centre", colour=', "Augment(chunk=32, colour="),
        (
            PREPROCESS,
            "half = (stored_px - input_px) // 2\n        self.w",
            "half = 0\n        self.w",
        ),
        (
            RECIPES,
            'Augment(mean="centre", colour="none", test_patches="nine")',
            'Augment(colour="none", test_patches="nine")',
        ),
    ],
    "Training is on raw RGB values": [
        (PREPROCESS, ".float() - mean", ".float() / 255 - mean"),
        (PREPROCESS, "if augmentation.scale != 1:", "if True:\n            x /= 64"),
    ],
    "ours: The mean and the covariance are those": [
        ("data/processing.py", "rgb = decode(data)\n", "pass\n"),
    ],
    "ours: Images of the stored size": [
        ("data/processing.py", "if _keeps(data, settings) else None", "if False else None"),
        ("data/processing.py", 'settings.encoding in ("auto", "jpeg") and', "True and"),
    ],
    "ILSVRC-2012: 1.2 million": [
        (
            ILSVRC,
            'sorted(_synsets(files["meta.mat"]), key=lambda synset: synset.wnid)',
            '_synsets(files["meta.mat"])',
        ),
        (ILSVRC, "labels[number_of(file) - 1]", "labels[number_of(file) - 2]"),
    ],
    "ours: Every form of ImageNet": [
        (
            "data/classes.py",
            "by_wnid = sorted(range(len(wnids)), key=wnids.__getitem__)",
            "by_wnid = list(range(len(wnids)))",
        ),
        ("data/classes.py", "order[label] = position", "order[position] = label"),
        (
            ILSVRC,
            'tuple(synset.words or "" for synset in self.synsets)',
            'tuple(synset.words or "" for synset in reversed(self.synsets))',
        ),
    ],
    "ours: A run trained on one form": [
        (
            "trained.py",
            "    if run == store:\n        return None\n",
            "    if True:\n        return None\n",
        ),
        (
            "trained.py",
            "    if run == store:\n        return None\n",
            "    if run is store:\n        return None\n",
        ),
    ],
    "ours: Only the devkit of tasks 1 and 2": [
        (
            ILSVRC,
            "fit = [path for path in named if not re.search",
            "fit = [path for path in named if True or not re.search",
        ),
    ],
    "ours: Images of ImageNet are used as they are": [
        ("data/sources/source.py", "upright: bool = False", "upright: bool = True"),
    ],
    "ILSVRC-2010: a test set": [
        (ILSVRC, 'split == "test" and year == "2012"', 'split == "test"'),
    ],
    "The Fall 2011 release": [
        (
            "data/sources/class_tars.py",
            "for label, path in enumerate(tars)",
            "for label, path in enumerate(reversed(tars))",
        ),
        (
            "data/sources/source.py",
            "position = begin(row[1]) + fraction * number",
            "position = begin(row[1])",
        ),
        ("data/sources/source.py", "== held_out:", "!= held_out:"),
    ],
    # Section 3
    "3.1 ReLU": [
        (LAYERS, "return nn.ReLU()", "return nn.LeakyReLU()"),
        (LAYERS, "return nn.Tanh()", "return nn.Sigmoid()"),
        (CONFIG, 'activation: Activation = "relu"', 'activation: Activation = "tanh"'),
        (LAYERS, "return nn.Sigmoid()", "return nn.Tanh()"),
    ],
    "3.2 Half of the filters are in each column": [
        (
            RECIPES,
            'Conv("conv3", 384, 3, pad=(1, 1), linked=True),',
            'Conv("conv3", 384, 3, pad=(1, 1)),',
        ),
        (
            RECIPES,
            'Conv("conv4", 384, 3, pad=(1, 1), bias=1)',
            'Conv("conv4", 384, 3, pad=(1, 1), bias=1, linked=True)',
        ),
        (
            RECIPES,
            '"paper", Architecture(PAPER_LAYERS, columns=2,',
            '"paper", Architecture(PAPER_LAYERS,',
        ),
        (PLAN, "if first or last or (", "if last or ("),
        (
            "ops/linear.py",
            "F.conv2d(x, weight, bias, stride, before, groups=columns)",
            "F.conv2d(x.flip(1), weight, bias, stride, before, groups=columns)",
        ),
    ],
    "3.2 One-column network": [
        (
            RECIPES,
            '("conv1", "conv2", "conv3", "conv4")',
            '("conv1", "conv2", "conv3", "conv4", "conv5")',
        ),
        (RECIPES, "layer.kernels // 2", "layer.kernels // 3"),
        (
            RECIPES,
            "layers=one_column_layers(base.architecture.layers), columns=1",
            "layers=one_column_layers(base.architecture.layers), columns=2",
        ),
    ],
    "ours: without links, columns never meet": [
        (
            PLAN,
            "(architecture.links and sees_all)",
            "sees_all",
        ),
    ],
    "3.3 b = a": [
        (CONFIG, "n: int = 5", "n: int = 3"),
        (CONFIG, "k: float = 2.0", "k: float = 1.0"),
        (CONFIG, "alpha: float = 1e-4", "alpha: float = 1e-3"),
        (
            CONFIG,
            "    beta: float = 0.75\n\n    @property\n    def num_maps",
            "    beta: float = 0.5\n\n    @property\n    def num_maps",
        ),
        (
            NORMALISE,
            "return root.sqrt().mul_(root).reciprocal_()",
            "return root.mul_(root).reciprocal_()",
        ),
        (NORMALISE, "alpha=2 * alpha * beta", "alpha=alpha * beta"),
        (
            "native/kernels.cpp",
            "return 1.0f / (root * std::sqrt(root));",
            "return 1.0f / (root * root);",
        ),
    ],
    "3.3 alpha multiplies the sum": [
        (
            NORMALISE,
            "        (norm.k, norm.alpha, norm.beta),",
            "        (norm.k, norm.alpha / norm.n, norm.beta),",
        ),
        (NORMALISE, "(norm.k, norm.alpha) if norm", "(norm.k, norm.alpha / norm.n) if norm"),
    ],
    "3.3 n/2 rounded down": [
        (
            NORMALISE,
            "x.shape[1] // columns, norm.n // 2",
            "x.shape[1] // columns, (norm.n - 1) // 2",
        ),
        ("ops/plain.py", "return self.norm.n // 2 if", "return (self.norm.n - 1) // 2 if"),
    ],
    "3.3 The sum stays inside a column": [
        (
            NORMALISE,
            "lambda squares: _band_product(squares, band, columns)",
            "lambda squares: _band_product(squares, "
            "_band(squares.shape[1], norm.n // 2, squares.dtype, squares.device), 1)",
        ),
        (
            LAYERS,
            "self.k, self.alpha, self.beta, self.columns)",
            "self.k, self.alpha, self.beta, 1)",
        ),
        (MODEL, "columns = module.columns", "columns = 1"),
    ],
    "original: alpha 1e-4 / 5": [
        (RECIPES, "lrn=Lrn(alpha=1e-4 / 5)", "lrn=Lrn(alpha=1e-4)"),
        (
            RECIPES,
            'pad=(0, 3), then=("lrn", "max_pool", "activation")',
            'pad=(0, 3), then=("activation", "lrn", "max_pool")',
        ),
    ],
    "original: a second, spatial": [
        (CONFIG, "alpha: float = 0.001 / 25", "alpha: float = 0.001 / 5"),
        (CONFIG, "size_px: int = 5\n    k: float = 1.0", "size_px: int = 3\n    k: float = 1.0"),
        (CONFIG, "size_px: int = 5\n    k: float = 1.0", "size_px: int = 5\n    k: float = 2.0"),
        (
            RECIPES,
            '("activation", "lrn", "spatial_norm", "max_pool")',
            '("activation", "spatial_norm", "lrn", "max_pool")',
        ),
        (
            "ops/plain.py",
            "F.avg_pool2d(rows, (1, size_px), 1, (0, half), divisor_override=1)",
            "rows",
        ),
        (
            RECIPES,
            "spatial_norm=SpatialNorm(size_px=3, alpha=5e-5 / 9)",
            "spatial_norm=SpatialNorm(size_px=3, alpha=5e-5)",
        ),
    ],
    "original: conv3, conv4 and conv5 start": [
        (
            RECIPES,
            'Conv("conv3", 384, 3, pad=(1, 1), linked=True, std=0.03)',
            'Conv("conv3", 384, 3, pad=(1, 1), linked=True, std=0.2)',
        ),
        (
            RECIPES,
            'Conv("conv4", 384, 3, pad=(1, 1), std=0.03, bias=1)',
            'Conv("conv4", 384, 3, pad=(1, 1), std=0.03)',
        ),
        (
            RECIPES,
            'std=0.03, bias=1, then=("max_pool", "activation")',
            'std=0.01, bias=1, then=("max_pool", "activation")',
        ),
    ],
    "3.4 Overlapping pooling": [
        (
            CONFIG,
            "size_px: int = 3\n    stride: int = 2\n    partial",
            "size_px: int = 2\n    stride: int = 2\n    partial",
        ),
        (
            CONFIG,
            "size_px: int = 3\n    stride: int = 2\n    partial",
            "size_px: int = 3\n    stride: int = 3\n    partial",
        ),
        (
            LAYERS,
            "nn.MaxPool2d(pool.size_px, pool.stride, ceil_mode=pool.partial)",
            "nn.MaxPool2d(pool.size_px, pool.stride, ceil_mode=not pool.partial)",
        ),
        (
            LAYERS,
            "nn.AvgPool2d(pool.size_px, pool.stride, ceil_mode=pool.partial)",
            "nn.AvgPool2d(pool.size_px, pool.stride, ceil_mode=pool.partial, divisor_override=9)",
        ),
    ],
    "3.5 Five convolutional": [
        (
            RECIPES,
            'Conv("conv1", 96, 11, stride=4, pad=(0, 3), then=("activation",',
            'Conv("conv1", 64, 11, stride=4, pad=(0, 3), then=("activation",',
        ),
        (
            RECIPES,
            'Conv("conv2", 256, 5, pad=(2, 2), bias=1, then=("activation", "lrn", "max_pool"))',
            'Conv("conv2", 256, 3, pad=(1, 1), bias=1, then=("activation", "lrn", "max_pool"))',
        ),
        (
            RECIPES,
            'FullyConnected("fc7", 4096, bias=1, then=("activation", "dropout")),',
            'FullyConnected("fc7", 2048, bias=1, then=("activation", "dropout")),',
        ),
        (RECIPES, '    FullyConnected("fc8", 1000),\n)\n', '    FullyConnected("fc8", 1001),\n)\n'),
    ],
    "3.5 60 million parameters": [
        (
            PLAN,
            "math.prod(self.weight_shape) + math.prod(self.bias_shape)",
            "math.prod(self.weight_shape)",
        ),
        (PLAN, "math.prod(self.in_shape) // self.columns)", "math.prod(self.in_shape))"),
    ],
    "3.5 The ReLU follows every": [
        (
            CONFIG,
            'then: tuple[OpName, ...] = ("activation",)\n    """Operations that follow it, in '
            'order; batch normalization (later than the paper) is one."""\n\n\n'
            "@dataclass(frozen=True)\nclass Local",
            "then: tuple[OpName, ...] = ()\n\n\n@dataclass(frozen=True)\nclass Local",
        ),
    ],
    "3.5 The objective is the mean": [
        (
            "distributed/sharded.py",
            'F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)',
            'F.multi_margin_loss(logits, labels, reduction="sum")',
        ),
    ],
    "3.5 650,000 neurons": [
        (PLAN, "return math.prod(self.shape) if", "return self.shape[0] if"),
        (
            PLAN,
            "positions = self.shape[1] * self.shape[2] if",
            "positions = self.in_shape[1] * self.in_shape[2] if",
        ),
    ],
    "3.5 The printed 224": [
        (
            RECIPES,
            'Conv("conv1", 96, 11, stride=4, pad=(0, 3), then=("activation",',
            'Conv("conv1", 96, 11, stride=4, pad=(3, 0), then=("activation",',
        ),
        (
            RECIPES,
            'Conv("conv1", 96, 11, stride=4, pad=(0, 3), then=("lrn",',
            'Conv("conv1", 96, 11, stride=4, pad=(2, 2), then=("lrn",',
        ),
        (
            "ops/linear.py",
            "F.pad(x, (before, after, before, after))",
            "F.pad(x, (after, before, after, before))",
        ),
    ],
    "3.5 Response normalization and pooling": [
        (
            RECIPES,
            'pad=(2, 2), bias=1, then=("activation", "lrn", "max_pool")',
            'pad=(2, 2), bias=1, then=("activation", "max_pool")',
        ),
        (RECIPES, 'bias=1, then=("activation", "max_pool")),\n    Full', "bias=1),\n    Full"),
        (
            RECIPES,
            'pad=(0, 3), then=("activation", "lrn", "max_pool")',
            'pad=(0, 3), then=("activation", "max_pool", "lrn")',
        ),
    ],
    "7 Any middle layer": [
        (PLAN, "linked = linked or (isinstance(layer, Conv) and layer.linked)", "linked = linked"),
        (PLAN, 'stays = tuple(op for op in layer.then if op != "activation")', "stays = ()"),
    ],
    "A sixth convolution": [
        (
            RECIPES,
            'CONV6 = Conv("conv6", 256, 3, pad=(1, 1), linked=True, std=0.03, bias=1)',
            'CONV6 = Conv("conv6", 256, 3, pad=(1, 1), linked=True, std=3.0, bias=1)',
        ),
        (
            RECIPES,
            'CONV6 = Conv("conv6", 256, 3, pad=(1, 1), linked=True, std=0.03, bias=1)',
            'CONV6 = Conv("conv6", 256, 3, pad=(1, 1), linked=True, std=0.03, bias=7)',
        ),
        (
            RECIPES,
            'CONV6 = Conv("conv6", 256, 3, pad=(1, 1), linked=True, std=0.03, bias=1)',
            'CONV6 = Conv("conv6", 256, 3, pad=(1, 1), std=0.03, bias=1)',
        ),
    ],
    # Section 4
    "4.1 Random 224x224 crops": [
        (AUGMENT, "flip = coin < 0.5", "flip = coin < 0.4"),
        (AUGMENT, "top, left = (y * positions)", "top, left = (0 * y * positions)"),
        (
            PREPROCESS,
            "torch.where(flip[:, None], self.input_px - 1 - side, side)",
            "side.expand(len(flip), -1)",
        ),
    ],
    "4.1 2048 crops of an image": [
        (RECIPES, "Augment(last_offset=False)", "Augment()"),
        (AUGMENT, "border + 1 if augment.last_offset else max(1, border)", "border + 1"),
        (
            AUGMENT,
            "border + 1 if augment.last_offset else max(1, border)",
            "border + 1 if augment.last_offset else border - 1",
        ),
    ],
    "original: one position and flip": [
        (RECIPES, "Augment(chunk=32,", "Augment(chunk=16,"),
        (AUGMENT, "rows = position // augment.chunk if", "rows = index // augment.chunk if"),
        (AUGMENT, "border + 1 if augment.last_offset else max(1, border)", "max(1, border)"),
    ],
    "4.1 The next batch is made": [
        (
            "data/loader.py",
            "for positions in itertools.islice(todo, AHEAD):",
            "for positions in itertools.islice(todo, 0):",
        ),
        (
            "data/loader.py",
            "index, rows = order[positions], images.numpy()",
            "index, rows = np.sort(order[positions]), images.numpy()",
        ),
    ],
    "4.1 At test, the softmax outputs": [
        (AUGMENT, "(border, border), (half, half)]", "(border, border)]"),
        (
            AUGMENT,
            "for flip in (False, True) for y, x in corners",
            "for flip in (False, False) for y, x in corners",
        ),
        (
            "trained.py",
            "return torch.stack(sums).sum(0) / len(positions)",
            "return torch.stack(sums).max(0).values",
        ),
        ("trained.py", "F.softmax(net(x), dim=1).view", "net(x).view"),
        (
            CONFIG,
            'test_patches: Literal["ten", "nine", "centre"] = "ten"',
            'test_patches: Literal["ten", "nine", "centre"] = "centre"',
        ),
    ],
    "4.1 Multiples of the principal components": [
        (CONFIG, "colour_std: float = 0.1", "colour_std: float = 0.2"),
        (
            AUGMENT,
            "roots, vectors = np.sqrt(np.maximum(values, 0)), columns.T",
            "roots, vectors = np.sqrt(np.maximum(values, 0)), columns",
        ),
        (AUGMENT, "_normal(seed, epoch, index)).astype", "_normal(seed, 0, index)).astype"),
        (
            AUGMENT,
            "generator.standard_normal((rows, 3)) if stream == NORMAL",
            "generator.random((rows, 3)) if stream == NORMAL",
        ),
    ],
    "4.1 The scale": [
        (AUGMENT, "else 255 * (roots / 255) ** 2", "else roots**2"),
        (AUGMENT, "else 255 * (roots / 255) ** 2", "else (roots / 255) ** 2"),
    ],
    "original: square roots of the eigenvalues": [
        (AUGMENT, "np.array([121.780, 37.094, 19.721])", "np.array([19.721, 37.094, 121.780])"),
        (AUGMENT, "[0.41796, -0.81698, 0.39731]", "[0.41796, 0.81698, 0.39731]"),
        (AUGMENT, "scale = 1 / (1 + augment.colour_std) if", "scale = 1 / 1.1 if"),
        (
            AUGMENT,
            'if augment.colour == "none" or not colour:',
            'if augment.colour == "none":',
        ),
    ],
    "4.2 Each hidden unit is zeroed": [
        (CONFIG, "rate: float = 0.5\n    form", "rate: float = 0.4\n    form"),
        (
            CONFIG,
            'form: Literal["2012", "inverted"] = "2012"',
            'form: Literal["2012", "inverted"] = "inverted"',
        ),
        ("ops/dropout_mask.py", 'f"{seed}/{step}/{layer}"', 'f"{seed}/{layer}"'),
        ("ops/dropout_mask.py", 'f"{seed}/{step}/{layer}"', 'f"{step}/{layer}"'),
        (LOOP, "dropout_key=(config.seed, state.step)", "dropout_key=(config.seed, 0)"),
        (LOOP, "dropout_key=(config.seed, state.step)", "dropout_key=None"),
        ("ops/dropout.py", 'return x * (1 - rate) if form == "2012" else x', "return x"),
        (
            "ops/dropout_mask.py",
            "return round(self.rate * 2**32)",
            "return round((1 - self.rate) * 2**32)",
        ),
    ],
    "4.2 In the first two fully connected layers": [
        (
            RECIPES,
            'FullyConnected("fc7", 4096, bias=1, then=("activation", "dropout")),',
            'FullyConnected("fc7", 4096, bias=1, then=("activation",)),',
        ),
        (
            RECIPES,
            'FullyConnected("fc6", 4096, bias=1, then=("activation", "dropout")),',
            'FullyConnected("fc6", 4096, bias=1, then=("dropout", "activation")),',
        ),
        (RECIPES, 'then=("activation", "max_pool", "dropout")', 'then=("activation", "max_pool")'),
    ],
    "original: with dropout turned off": [
        (LAYERS, "if self.training and self.masks else None", "if self.training else None"),
        (CONFIG, "masks: bool = True", "masks: bool = False"),
    ],
    # Section 5
    "v <- 0.9 v": [
        (CONFIG, "momentum: float = 0.9", "momentum: float = 0.95"),
        (CONFIG, "weight_decay: float = 0.0005", "weight_decay: float = 0.005"),
        (
            SGD,
            "velocity.add_(weight, alpha=-hyper.weight_decay * hyper.lr)",
            "velocity.add_(weight, alpha=-hyper.weight_decay)",
        ),
        (
            SGD,
            "velocity.mul_(momentum).add_(gradient, alpha=-hyper.lr)",
            "velocity.mul_(momentum).add_(gradient, alpha=-hyper.lr * (1 - momentum))",
        ),
        (
            SGD,
            "momentum, hyper.lr, hyper.weight_decay * hyper.lr",
            "momentum, hyper.lr, hyper.weight_decay",
        ),
        (SGD, "    weight.add_(velocity)\n", "    weight.add_(velocity, alpha=0.5)\n"),
    ],
    "Batches of 128": [
        (CONFIG, "batch: int = 128", "batch: int = 64"),
        (RECIPES, "Sgd(batch=256, weight_decay=1e-4)", "Sgd(batch=128, weight_decay=1e-4)"),
        (
            "distributed/sharded.py",
            "return losses / global_size, wrong",
            "return losses / 128, wrong",
        ),
    ],
    "Weights start from a Gaussian": [
        (
            CONFIG,
            LINKED + "std: float | None = 0.01",
            LINKED + "std: float | None = 0.1",
        ),
        (
            CONFIG,
            "units: int\n    std: float | None = 0.01",
            "units: int\n    std: float | None = 0.02",
        ),
        (
            LAYERS,
            "weight.normal_(0, op.layer.std, generator=generator)",
            "weight.normal_(0, 2 * op.layer.std, generator=generator)",
        ),
        (
            MODEL,
            "generator = torch.Generator().manual_seed(seed)",
            "generator = torch.Generator().manual_seed(0)",
        ),
    ],
    "Biases of conv2, conv4, conv5": [
        (
            RECIPES,
            'Conv("conv4", 384, 3, pad=(1, 1), bias=1),',
            'Conv("conv4", 384, 3, pad=(1, 1)),',
        ),
        (
            RECIPES,
            'Conv("conv3", 384, 3, pad=(1, 1), linked=True),',
            'Conv("conv3", 384, 3, pad=(1, 1), linked=True, bias=1),',
        ),
        (
            RECIPES,
            '    FullyConnected("fc8", 1000),\n)\n',
            '    FullyConnected("fc8", 1000, bias=1),\n)\n',
        ),
        (
            LAYERS,
            "torch.full(op.bias_shape, float(op.layer.bias), device",
            "torch.full(op.bias_shape, 0.0, device",
        ),
    ],
    "One learning rate for all layers": [
        (CONFIG, "lr: float = 0.01\n    momentum", "lr: float = 0.1\n    momentum"),
        (CONFIG, "bias_lr: float | None = None", "bias_lr: float | None = 0.02"),
        (CONFIG, "bias_decay: bool = True", "bias_decay: bool = False"),
    ],
    "Roughly 90 cycles": [
        (CONFIG, "    epochs: int = 90", "    epochs: int = 30"),
    ],
    "Divided by 10 when the validation error": [
        (SGD, "DROP = 0.1", "DROP = 0.5"),
        (CONFIG, "drops: int = 3", "drops: int = 2"),
        (CONFIG, "    patience: int = 5", "    patience: int = 1"),
        (CONFIG, "min_delta: float = 0.002", "min_delta: float = 0.2"),
        (
            SGD,
            "val_error <= state.best_error - schedule.min_delta",
            "val_error <= state.best_error",
        ),
        (SGD, "state.drops > schedule.drops", "state.drops >= schedule.drops"),
    ],
    "original: lr / 10 at epochs 25, 51 and 79": [
        (RECIPES, "StepSchedule(91, drops=(25, 51, 79),", "StepSchedule(91, drops=(25, 51, 80),"),
        (RECIPES, "StepSchedule(91, drops=(25, 51, 79),", "StepSchedule(90, drops=(25, 51, 79),"),
        (
            RECIPES,
            "Sgd(bias_lr=0.02, bias_lr_follows=False, bias_decay=False)",
            "Sgd(bias_lr=0.002, bias_lr_follows=False, bias_decay=False)",
        ),
        (
            RECIPES,
            "Sgd(bias_lr=0.02, bias_lr_follows=False, bias_decay=False)",
            "Sgd(bias_lr=0.02, bias_decay=False)",
        ),
        (
            RECIPES,
            "Sgd(bias_lr=0.02, bias_lr_follows=False, bias_decay=False)",
            "Sgd(bias_lr=0.02, bias_lr_follows=False)",
        ),
        (SGD, "sum(epoch >= at for at in", "sum(epoch > at for at in"),
    ],
    "original: from epoch 67": [
        (
            RECIPES,
            'LayerLr("conv1", slow, 1e-5, weights_only=True)',
            'LayerLr("conv1", slow, 1e-5)',
        ),
        (
            RECIPES,
            'LayerLr("conv1", freeze, 0.0)',
            'LayerLr("conv1", freeze, 0.0, weights_only=True)',
        ),
        (
            RECIPES,
            "layer_lrs=_frozen_conv1(67, 72), colour_until=67",
            "layer_lrs=_frozen_conv1(67, 72), colour_until=72",
        ),
        (SGD, "return epoch < schedule.colour_until", "return epoch <= schedule.colour_until"),
        (LOOP, "colour = colour_on(schedule, state.epoch)", "colour = True"),
        (SGD, "    if hyper.lr == 0:\n        return\n", ""),
    ],
    "original: the same batches in every epoch": [
        (RECIPES, 'colour_until=67),\n        order="fixed",\n', "colour_until=67),\n"),
        (LOOP, "state.epoch if reshuffled else 0", "state.epoch"),
        (
            CONFIG,
            'order: Literal["shuffled", "fixed"] = "shuffled"',
            'order: Literal["shuffled", "fixed"] = "fixed"',
        ),
    ],
    # Section 6
    "Top-1 and top-5 error": [
        (EVALUATION, "before == 0, before < 5", "before == 0, before < 4"),
        (EVALUATION, "right, in_five = before == 0,", "right, in_five = before == 1,"),
        (EVALUATION, "((known == own) & earlier)", "((known == own) & ~earlier)"),
        (EVALUATION, "top1_error=float(1 - right.mean())", "top1_error=float(right.mean())"),
        (
            "train/metrics.py",
            "self._state.images += batch_size",
            "self._state.images += batch_size + 1",
        ),
        (
            "distributed/sharded.py",
            "(logits.argmax(1) != labels).sum()",
            "(logits.argmax(1) == labels).sum()",
        ),
    ],
    "Several networks averaged": [
        (EVALUATION, ").mean(0)", ").max(0).values"),
        (
            EVALUATION,
            "nets = [(member.net, member.preprocess) for member in members]",
            "nets = [(member.net, member.preprocess) for member in members[:1]]",
        ),
    ],
    "original: the weights of the average": [
        (MEASURES, "weights = (shares / shares.sum(0)).mean(1)", "weights = weights"),
        (MEASURES, "- _error(weighted, labels[new])", "- _error(p[:, new].mean(0), labels[new])"),
    ],
    "Fig. 3: the filters of each column": [
        (
            "figures/filters.py",
            "zip(axes, weight.chunk(columns), strict=True)",
            "zip(axes, [weight] * columns, strict=True)",
        ),
        ("figures/filters.py", "tiles = 0.5 + 0.5 * tiles", "tiles = 0.5 - 0.5 * tiles"),
    ],
    "The last hidden layer": [
        (
            "inference.py",
            "trained.preprocess.centre(images))",
            "trained.preprocess.centre(images.flip(2)))",
        ),
        ("inference.py", "trained.net.plan[-2].layer.name", "trained.net.plan[0].layer.name"),
    ],
    "Fig. 4: the five most probable classes": [
        (
            "inference.py",
            "topk(min(top_k, distances.shape[1]), largest=False)",
            "topk(min(top_k, distances.shape[1]), largest=True)",
        ),
        ("figures/answers.py", "BEST = 5", "BEST = 4"),
        ("inference.py", "NEAREST = 6", "NEAREST = 5"),
    ],
    "The comparisons of sections 3 and 4": [
        (MEASURES, "100 * (of(first) - of(second))", "100 * (of(second) - of(first))"),
        (MEASURES, "self.centre_error - self.train_error", "self.train_error - self.centre_error"),
        (
            MEASURES,
            "100 * (run.centre_error - run.test_error)",
            "100 * (run.test_error - run.centre_error)",
        ),
        (
            MEASURES,
            'float(ablated.epochs[0]["val_loss"] - base.epochs[0]["val_loss"])',
            'float(base.epochs[0]["val_loss"] - ablated.epochs[0]["val_loss"])',
        ),
        (
            MEASURES,
            'float(ablated.epochs[0]["val_loss"] - base.epochs[0]["val_loss"])',
            'float(ablated.epochs[0]["train_loss"] - base.epochs[0]["train_loss"])',
        ),
        (
            MEASURES,
            "epochs_to(QUARTER, tanh) / epochs_to(QUARTER, relu)",
            "epochs_to(QUARTER, relu) / epochs_to(QUARTER, tanh)",
        ),
        ("evaluation.py", "QUARTER = 0.25", "QUARTER = 0.5"),
        (MEASURES, "return with_dropout / none", "return none / with_dropout"),
        (
            MEASURES,
            '100 * (single - members[0].extra_metrics["ensemble_error"])',
            '100 * (members[0].extra_metrics["ensemble_error"] - single)',
        ),
        (
            MEASURES,
            '100 * members[0].extra_metrics["weighted_gain"]',
            '-100 * members[0].extra_metrics["weighted_gain"]',
        ),
        (
            MEASURES,
            '(error["halved_error"] - error["masked_error"])',
            '(error["masked_error"] - error["halved_error"])',
        ),
        (
            MEASURES,
            '(share["same_class_by_hidden"] - share["same_class_by_pixels"])',
            '(share["same_class_by_pixels"] - share["same_class_by_hidden"])',
        ),
        (MEASURES, "return apart(run.colour)[0]", "return -apart(run.colour)[0]"),
    ],
    "ours: The verdict follows from an interval": [
        (STATISTICS, "if low - none > rounding:", "if high - none > rounding:"),
        (STATISTICS, "elif none - high > rounding:", "elif none - low > rounding:"),
        (STATISTICS, "LEVEL, POWER = 0.95, 0.8", "LEVEL, POWER = 0.9, 0.8"),
        (STATISTICS, "(len(p_values) - rank) * p_values[index]", "len(p_values) * p_values[index]"),
        (STATISTICS, "error = deviation / math.sqrt(n)", "error = deviation / n"),
        (STATISTICS, "p = 2 * float(t.sf(", "p = float(t.sf("),
    ],
    "ours: A record whose arms": [
        (
            "experiments/records.py",
            'yield from differences(asdict(parts[0]), asdict(parts[1]), "part")',
            "pass",
        ),
        ("experiments/bases.py", "colour_until=18", "colour_until=17"),
    ],
    "3.4 original: 2/2 pooling": [
        ("experiments/bases.py", "Pool(2, 2, partial=True)", "Pool(2, 2)"),
        ("experiments/bases.py", '"conv5": (0, 0)}', '"conv5": (1, 1)}'),
    ],
    "4.2 ours: The network without dropout": [
        ("experiments/claims.py", '"dropout", masks=False', '"dropout", rate=0.0'),
        ("experiments/claims.py", '"dropout", masks=False', '"dropout"'),
    ],
    "ours: ImageNet 2012 is recognized": [
        (
            "experiments/data_sets.py",
            "wnids == data.wnids_sha256",
            "len(store.classes) == data.classes",
        ),
        ("experiments/data_sets.py", 'wnids_sha256="385e', 'wnids_sha256="485e'),
        (
            "experiments/document.py",
            "if any(record.in_papers_setting for record in records):",
            'if any(record.raw["scale"] == "full" for record in records):',
        ),
    ],
    "Fig. 3: one column specializes in color": [
        ("diagnostics.py", "grey = 3 * weight.mean(1)", "grey = weight.mean(1)"),
        ("diagnostics.py", "share = 1 - grey /", "share = grey /"),
        (
            "diagnostics.py",
            "(xx - yy).square() + 4 * xy.square()",
            "(xx + yy).square() + 4 * xy.square()",
        ),
    ],
    "Pre-training, then fine-tuning": [
        ("train/setup.py", "if not same_classes:\n", "if False:\n"),
        ("checkpoint.py", "if layer in layers\n        and", "if"),
        (RECIPES, "conv1 = [(0, 1e-4), (5, 1e-5)]", "conv1 = [(0, 1e-3), (5, 1e-5)]"),
        (RECIPES, "fc8 = [(0, 1e-2), (9, 1e-3),", "fc8 = [(0, 1e-2), (8, 1e-3),"),
        (RECIPES, "colour_until=38", "colour_until=42"),
        (
            RECIPES,
            "            54,\n            drops=(22, 42),",
            "            54,\n            drops=(22, 43),",
        ),
        (
            RECIPES,
            'linear = FullyConnected("linear", 2048)',
            'linear = FullyConnected("linear", 2048, then=("activation",))',
        ),
        (
            RECIPES,
            'lr=1e-3, bias_lr_of=(("conv6", 0.022),)',
            'lr=1e-3, bias_lr_of=(("conv6", 0.02),)',
        ),
        (
            RECIPES,
            '(base.sgd, bias_lr_of=(("conv6", 0.022),)',
            '(base.sgd, bias_lr_of=(("conv6", 0.002),)',
        ),
        (
            RECIPES,
            "LayerLr(name, 0, 1e-3, weights_only=True) for name in first_five",
            "LayerLr(name, 0, 1e-2, weights_only=True) for name in first_five",
        ),
    ],
    "The network of the headline number": [
        (RECIPES, "93, drops=(23, 51, 78)", "93, drops=(25, 51, 78)"),
        (RECIPES, "sgd=replace(base.sgd, bias_lr=0.002),", "sgd=base.sgd,"),
        (
            RECIPES,
            "layer_lrs=_frozen_conv1(68, 72), colour_until=68",
            "layer_lrs=_frozen_conv1(67, 72), colour_until=68",
        ),
    ],
    "original: pooling of the four-layer CIFAR-10 networks": [
        (PLAN, "count = -(-span // stride) + 1", "count = span // stride + 1"),
        (
            RECIPES,
            'then=("max_pool", "activation", "spatial_norm")',
            'then=("max_pool", "activation")',
        ),
        (
            RECIPES,
            'FullyConnected("fc64", 64, std=0.1, then=("activation",))',
            'FullyConnected("fc64", 64, std=0.01, then=("activation",))',
        ),
        (RECIPES, "Lrn(n=9, k=1.0, alpha=0.001 / 9)", "Lrn(n=9, k=2.0, alpha=0.001 / 9)"),
        (
            RECIPES,
            "CIFAR_SGD = Sgd(lr=0.001, bias_lr=0.002, bias_decay=False)",
            "CIFAR_SGD = Sgd(lr=0.001, bias_lr=0.001, bias_decay=False)",
        ),
        (
            RECIPES,
            "StepSchedule(epochs=14, drops=(10, 12))",
            "StepSchedule(epochs=15, drops=(10, 12))",
        ),
        (
            RECIPES,
            "StepSchedule(epochs=140, drops=(120, 130))",
            "StepSchedule(epochs=14, drops=(12, 13))",
        ),
        (
            RECIPES,
            "replace(CIFAR_SGD, weight_decay_of=decay, bias_lr_follows=False),\n        "
            "StepSchedule(",
            "replace(CIFAR_SGD, weight_decay_of=decay),\n        StepSchedule(",
        ),
    ],
    "original: locally connected layers": [
        (
            PLAN,
            "(self.shape[0], fan_in, size, size, *self.shape[1:])",
            "(self.shape[0], fan_in, size, size, *self.in_shape[1:])",
        ),
        (
            "ops/local.py",
            "F.pad(x, (pad[0], pad[1], pad[0], pad[1]))",
            "F.pad(x, (pad[1], pad[0], pad[1], pad[0]))",
        ),
        (
            "ops/local.py",
            ".reshape(-1, filters, height, width) + bias)",
            ".reshape(-1, filters, height, width))",
        ),
        (
            PLAN,
            "self.shape if isinstance(self.layer, Local) else self.shape[:1]",
            "self.shape[:1]",
        ),
    ],
    "original: weight decay for each layer": [
        (RECIPES, '("conv3", 0.004), ("fc10", 1.0))', '("conv3", 0.004), ("fc10", 0.1))'),
        (
            RECIPES,
            '("conv3", 0.004), ("fc64", 0.03), ("fc10", 0.03))',
            '("conv3", 0.04), ("fc64", 0.03), ("fc10", 0.03))',
        ),
        (RECIPES, '("local4", 0.004), ("fc10", 0.01))', '("local4", 0.004), ("fc10", 0.004))'),
        (SGD, "dict(sgd.weight_decay_of).get(layer, sgd.weight_decay)", "sgd.weight_decay"),
    ],
    "The later network of torchvision": [
        (RECIPES, "Sgd(batch=256, weight_decay=1e-4)", "Sgd(batch=256, weight_decay=0.1)"),
        (
            RECIPES,
            "StepSchedule(epochs=90, drops=(30, 60))",
            "StepSchedule(epochs=9, drops=(30, 60))",
        ),
        (RECIPES, 'layers, dropout=Dropout(form="inverted")', "layers, dropout=Dropout()"),
        (
            PREPROCESS,
            "TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406)",
            "TORCHVISION_MEAN, TORCHVISION_STD = (0.406, 0.456, 0.485)",
        ),
        (
            "weights/layouts.py",
            '"features.6": "conv3",\n    "features.8": "conv4"',
            '"features.8": "conv3",\n    "features.6": "conv4"',
        ),
        (
            LAYERS,
            "bound = 1 / math.sqrt(math.prod(op.weight_shape[1:4]))",
            "bound = 1 / math.prod(op.weight_shape[1:4])",
        ),
    ],
    # Two GPUs
    "Half of the filters are on each GPU": [
        (
            "distributed/sharded.py",
            "self._pending[name] = begin_sum(gradient,",
            "self._pending[name] = begin_sum(2 * gradient,",
        ),
    ],
    "ours: Columns that never meet": [
        ("distributed/sharded.py", "return op.columns == 1 and op.layer", "return op.layer"),
    ],
    # Between the sentences
    "A network that starts nearly blind": [
        ("diagnostics.py", "BLIND = 0.02", "BLIND = 0.5"),
        ("diagnostics.py", "if last.difference >= BLIND:", "if last.difference < BLIND:"),
        ("diagnostics.py", "apart / size", "size / apart"),
    ],
    "A network narrower than its recipe": [
        (RECIPES, "PAPER_LAYERS, columns=2, scale_std=True", "PAPER_LAYERS, columns=2"),
        (RECIPES, "lrn=Lrn(alpha=1e-4 / 5), scale_std=True", "lrn=Lrn(alpha=1e-4 / 5)"),
        (PLAN, "layer.std / math.sqrt(architecture.width)", "layer.std / architecture.width"),
        (PLAN, "layer.std is not None and not first", "layer.std is not None"),
    ],
    "A run that is interrupted anywhere": [
        ("train/setup.py", "velocity[name].copy_(tensor)", "velocity[name].zero_()"),
        (LOOP, "                state.batch,\n", "                0,\n"),
    ],
    "ONNX with its LRN operator": [
        ("export.py", "alpha=lrn.alpha * size", "alpha=lrn.alpha"),
    ],
    "float32 does not use TF32": [
        (
            "device.py",
            'torch.backends.cudnn.allow_tf32 = precision == "tf32"',
            "torch.backends.cudnn.allow_tf32 = True",
        ),
        (
            "device.py",
            'torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"',
            "torch.backends.cuda.matmul.allow_tf32 = True",
        ),
        ("train/setup.py", "net = net.double()", "net = net.float()"),
    ],
    "Every file names the code": [
        ("provenance.py", 'changed == "" and added == ""', "True"),
        ("train/checkpoints.py", '        "code": code_version(),\n', '        "code": {},\n'),
    ],
}
